"""More rules from the literature, for comparison: they look at what was computed before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.config import check_within
from ditcache_rl.control.base import uniform_decision
from ditcache_rl.control.heuristics import ThresholdRule, relative_l1
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo

#: Relative change per step of the residual, and for how many steps it is good: AdaCache's codebook
#: for short runs, scaled by the pace.
_CODEBOOK = ((0.03, 6), (0.05, 5), (0.07, 4), (0.09, 3), (0.11, 2))


class DiCache(ThresholdRule):
    """Compute when the accumulated change of the first block's residual exceeds a threshold.

    Between, the residual goes on along the line through the last two computed ones.

    Args:
        threshold: Accumulated relative change; larger is faster and worse.

    Source: the probe of DiCache, arXiv 2508.17356; its line runs along the probe's change, ours
    along the noise level.
    """

    probe_blocks = 1
    between = Mode.FORECAST1

    def reset(self, run: RunInfo) -> None:
        """Forget the signals of the request before."""
        super().reset(run)
        self._probe: Tensor | None = None

    def decide(self, info: StepInfo) -> Decision:
        """Add up how far the probe moved from step to step."""
        probe = info.probe_residual
        assert probe is not None, "probe_blocks = 1 makes the runner pass it"
        computing = np.ones(info.run.rows, dtype=bool)
        if self._probe is not None:
            self._accumulated = self._accumulated + relative_l1(probe, self._probe)
            computing = self._accumulated >= self.threshold
        self._accumulated = np.where(computing, 0.0, self._accumulated)
        self._probe = probe
        return self._decide_rows(info, computing)


class AdaCache:
    """Reuse for as many steps as the last change of the residual allows by a codebook.

    Args:
        pace: Scales the changes that the codebook allows; larger is faster and worse.

    Source: the schedule of AdaCache, arXiv 2411.02397, without its motion term.
    """

    probe_blocks = 0

    def __init__(self, pace: float) -> None:
        check_within("pace", pace, 0, above=True)
        self.pace = pace

    def reset(self, run: RunInfo) -> None:
        """Begin with full compute."""
        self._until: NDArray[np.int64] = np.zeros(run.rows, dtype=np.int64)

    def decide(self, info: StepInfo) -> Decision:
        """Look the change between the last two computed residuals up, right after a compute."""
        history = info.history[0]
        fresh = (history.steps[0] == info.step - 1) & (history.valid > 1)
        if fresh.any():
            newest, older, *_ = history.residuals()
            gap = np.maximum(history.steps[0] - history.steps[1], 1)
            change = relative_l1(newest, older) / gap
            lasts = np.ones(info.run.rows, dtype=np.int64)
            for limit, steps in reversed(_CODEBOOK):
                lasts = np.where(change <= limit * self.pace, steps, lasts)
            self._until = np.where(fresh, history.steps[0] + lasts, self._until)
        decision = uniform_decision(info.run, Mode.REUSE)
        decision.modes[(info.step >= self._until) | (history.valid < 2)] = Mode.COMPUTE
        return decision
