"""What a request really did, for whoever asks afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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
        self._returned: _Returned | None = None
        self._estimated: _Returned | None = None
        self._jumps: dict[int, _Jump] = {}

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

    def note_output(self, step: int, latents: Tensor, output: Tensor, branch: int = 0) -> None:
        """Note what a call of a step saw and returned; nobody waits for a device here.

        Args:
            step: At which it came.
            latents: Of the whole batch.
            output: Likewise.
            branch: The last one in the batch.
        """
        if self._returned is not None and self._returned.step != step:
            self._compare()
        self._returned = _Returned(step, branch, output[-self.run.rows :])
        if step == len(self.modes) - 1 and (self.modes > Mode.COMPUTE).any():
            # A sum is finite if all numbers are, and of a sane size; on a CPU it is far cheaper.
            self._ends += [tensor.sum(dtype=torch.float32) for tensor in (latents, output)]

    def _compare(self) -> None:
        """Note how far what a step has computed lies from what was estimated at the step before.

        By that, times the noise level, the predicted clean image changes. Told is the last branch
        that the step called; that of another one is not compared with it.
        """
        now, before, self._estimated = self._returned, self._estimated, None
        if now is None or not 0 <= now.step < len(self.modes):
            return
        modes = self.modes[now.step]
        if (modes.min(axis=1) > Mode.COMPUTE).any():
            self._estimated = now
        if before is None or (now.step, now.branch) != (before.step + 1, before.branch):
            return
        told = (self.modes[before.step].min(axis=1) > Mode.COMPUTE) & (
            modes.max(axis=1) <= Mode.COMPUTE
        )
        if told.any() and now.output.shape == before.output.shape and len(now.output) == len(told):
            self._jumps[now.step] = _Jump(told, jump(now.output, before.output))

    def end(self, seconds: float) -> None:
        """Let go of tensors that nobody asks for any more, and note what the call took."""
        self._compare()
        self._returned = self._estimated = None
        self.seconds = seconds

    def jumps(self) -> Floats:
        """Return how far outputs lie from the estimates before them; waits for the device.

        Returns:
            (rows, steps, SIGNALS) logarithms of the mean squared distance and output, and the share
            of the output that the distance along it is; nan but in rows and at steps that computed
            after an estimate.
        """
        steps, rows, _ = self.modes.shape
        found = np.full((rows, steps, SIGNALS), np.nan)
        for step, noted in self._jumps.items():
            found[noted.rows, step] = noted.read()[noted.rows]
        return found

    def error(self, step: int) -> Callable[[], Floats] | None:
        """Return what tells how far estimates were off, by what a step computed; waits for it.

        Returns:
            None where no row tells any, else a function that returns (rows,) the distance over the
            norm of what was computed, infinite where that is not finite; nan in rows that tell
            nothing.
        """
        noted = self._jumps.get(step)
        return None if noted is None else noted.error

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


class _Returned(NamedTuple):
    """What the last call of a step has returned."""

    step: int
    branch: int
    output: Tensor


class _Jump:
    """Signals of the rows that tell some, on their way to the host."""

    def __init__(self, rows: NDArray[np.bool_], signals: Tensor) -> None:
        self.rows, self._signals, self._event = rows, signals, None
        if signals.is_cuda:  # a copy that is asked for later would wait for all that is queued then
            self._signals = signals.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(signals.device))

    def read(self) -> Floats:
        """Wait for them: (rows, SIGNALS)."""
        if self._event is not None:
            self._event.synchronize()
        return np.asarray(self._signals.cpu(), dtype=np.float64)

    def error(self) -> Floats:
        """Return (rows,) what `RequestLog.error` says."""
        off, size, _ = self.read().T
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.exp((off - size) / 2)
        return np.where(self.rows, np.where(np.isnan(error), np.inf, error), np.nan)


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
