"""What a request really did, for whoever asks afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.types import Floats, Mode, Modes, RunInfo


class RequestLog:
    """What a request really did.

    Attributes:
        modes: (steps, rows, sites) effective modes of the branch that decided; -1 where no call
            came.
        by_branch: The same of every guidance branch by its number, -1 also at calls that were left
            alone. Branches share decisions, but what one has lost another may still have.
        branches: Most guidance branches that a step had.
        seconds: Wall-clock time of the pipeline call so far.
        peak_bytes: Most bytes that the cache held, entries of other requests included.
    """

    def __init__(self, run: RunInfo) -> None:
        self.run = run
        self.modes: Modes = np.full(
            (run.num_inference_steps, run.rows, run.sites), -1, dtype=np.int8
        )
        self.by_branch: dict[int, Modes] = {}
        self.branches = 0
        self.seconds = 0.0
        self.peak_bytes = 0
        self._ends: list[Tensor] = []

    def note(
        self, step: int, site: int, modes: Modes, branches: Iterable[int], *, decided: bool
    ) -> None:
        """Note the modes of a span of a site; of several spans the least counts.

        Args:
            step: At which it ran.
            site: Of the span.
            modes: (rows,) effective.
            branches: In the batch.
            decided: Whether the decision of the step was taken in this call.
        """
        tables = [self.modes] if decided else []
        for branch in branches:
            if branch not in self.by_branch:
                self.by_branch[branch] = np.full_like(self.modes, -1)
            tables.append(self.by_branch[branch])
        for table in tables:
            before = table[step, :, site]
            before[:] = modes if before[0] < 0 else np.minimum(before, modes)

    def note_end(self, step: int, *tensors: Tensor) -> None:
        """Look at what the last step saw and returned; nobody waits for a device here."""
        if step == len(self.modes) - 1 and (self.modes > Mode.COMPUTE).any():
            # A sum is finite if all numbers are, and of a sane size; on a CPU it is far cheaper.
            self._ends += [tensor.sum(dtype=torch.float32) for tensor in tensors]

    @property
    def finite(self) -> bool:
        """Whether estimates left no nan or infinity at the last step; waits for the device."""
        return all(map(math.isfinite, self._ends))

    @property
    def compute_share(self) -> Floats:
        """(rows,) computed sites over all sites of all steps."""
        computed = (self.modes == Mode.COMPUTE).sum(axis=(0, 2))
        return np.asarray(computed / self.run.site_steps, dtype=np.float64)
