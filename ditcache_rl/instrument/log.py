"""What a request really did, for whoever asks afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.types import SIGNALS, Floats, Mode, Modes, RunInfo

#: Squares below this count as this.
_TINY = 1e-12


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
        target: What the request was asked for, as `str` writes it; None where a controller decided
            by itself.
        failed: Name of the error that ended the call before it returned; "" where none did.
        guarded: Why a guard had rows computed to the end; "" where it had not.
        expected_psnr_db: (rows,) what images probably reach against full compute, where the policy
            can tell; None elsewhere.
    """

    def __init__(self, run: RunInfo, target: Any = None) -> None:
        self.run = run
        self.modes: Modes = np.full(
            (run.num_inference_steps, run.rows, run.sites), -1, dtype=np.int8
        )
        self.by_branch: dict[int, Modes] = {}
        self.branches = 0
        self.seconds = 0.0
        self.peak_bytes = 0
        self.target = target
        self.failed = self.guarded = ""
        self.expected_psnr_db: Floats | None = None
        self._ends: list[Tensor] = []
        self._estimated: tuple[int, Tensor] | None = None
        self._jumps: dict[int, Tensor] = {}

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

    def note_output(self, step: int, latents: Tensor, output: Tensor) -> None:
        """Look at what a step saw and returned; nobody waits for a device here.

        Noted is how far what is computed lies from what was estimated at the step before: by that,
        times the noise level, the predicted clean image changes.
        """
        if self.branches <= 1 and len(output) == self.run.rows:
            modes = self.modes[step]
            before, self._estimated = self._estimated, None
            if (modes > Mode.COMPUTE).all():
                self._estimated = step, output
            elif (
                before is not None
                and step == before[0] + 1
                and (modes <= Mode.COMPUTE).all()
                and output.shape == before[1].shape
            ):
                self._jumps[step] = jump(output, before[1])
        if step == len(self.modes) - 1 and (self.modes > Mode.COMPUTE).any():
            # A sum is finite if all numbers are, and of a sane size; on a CPU it is far cheaper.
            self._ends += [tensor.sum(dtype=torch.float32) for tensor in (latents, output)]

    def end(self, seconds: float) -> None:
        """Let go of tensors that nobody asks for any more, and note what the call took."""
        self._estimated, self.seconds = None, seconds

    def jumps(self) -> Floats:
        """Return how far outputs lie from the estimates before them; waits for the device.

        Returns:
            (rows, steps, SIGNALS) logarithms of the mean squared distance and output, and the share
            of the output that the distance along it is; nan but at steps that computed after an
            estimate.
        """
        steps, rows, _ = self.modes.shape
        found = np.full((rows, steps, SIGNALS), np.nan)
        if self._jumps:
            noted = torch.stack(list(self._jumps.values()), 1)
            found[:, list(self._jumps)] = noted.double().cpu().numpy()
        return found

    @property
    def finite(self) -> bool:
        """Whether estimates left no nan or infinity at the last step; waits for the device."""
        return all(map(math.isfinite, self._ends))

    def note_bytes(self, used_bytes: int) -> None:
        """Note what the cache holds."""
        self.peak_bytes = max(self.peak_bytes, used_bytes)

    @property
    def compute_share(self) -> Floats:
        """(rows,) computed sites over all sites of all steps."""
        computed = (self.modes == Mode.COMPUTE).sum(axis=(0, 2))
        return np.asarray(computed / self.run.site_steps, dtype=np.float64)


def jump(output: Tensor, before: Tensor) -> Tensor:
    """Return the signals of two outputs, see `RequestLog.jumps`: (rows, SIGNALS)."""
    whole = output.float()
    apart = whole - before.float()
    off, size, along = (
        tensor.flatten(1).mean(1) for tensor in (apart.square(), whole.square(), apart * whole)
    )
    return torch.stack(
        [off.clamp_min(_TINY).log(), size.clamp_min(_TINY).log(), along / size], dim=1
    )
