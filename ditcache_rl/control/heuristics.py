"""Rules from the literature, all as controllers of the same runner.

The three threshold rules decide for the whole stack and, as published, for the whole batch; here
every row decides for itself, so that a row's image does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.config import check_within
from ditcache_rl.control.base import Delegating, uniform_decision
from ditcache_rl.control.static import StaticSchedule
from ditcache_rl.schedules import computes_of
from ditcache_rl.schedules.spacing import spaced
from ditcache_rl.types import MOST_COUNT, Decision, Floats, Mode, Modes, RunInfo, StepInfo, Tier

#: Polynomial of TeaCache for FLUX, highest power first (github.com/ali-vilab/TeaCache,
#: TeaCache4FLUX).
TEACACHE_FLUX = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)


class AllCompute:
    """Compute everything and keep nothing: the reference under the runner."""

    probe_blocks = 0

    def reset(self, run: RunInfo) -> None:
        """Prepare the one decision that there is."""
        self._run = run
        self._decision = uniform_decision(run, Mode.COMPUTE, Tier.DROP)

    def planned(self) -> Modes:
        """Return compute everywhere."""
        run = self._run
        return np.zeros((run.num_inference_steps, run.rows, run.sites), dtype=np.int8)

    def decide(self, info: StepInfo) -> Decision:
        """Compute every site."""
        return self._decision


class EveryK:
    """Compute every k-th step, and reuse or forecast between.

    Args:
        k: Steps from one computed step to the next; larger is faster and worse.
        order: Order of the forecast; 0 reuses.
    """

    probe_blocks = 0

    def __init__(self, k: int, *, order: int = 0) -> None:
        check_within("k", k, 1, MOST_COUNT, whole=True)
        check_within("order", order, 0, 2, whole=True)
        self.k, self.order = k, order

    def reset(self, run: RunInfo) -> None:
        """Remember the shape of the request."""
        self._run = run

    def planned(self) -> Modes:
        """Return the whole pattern."""
        run = self._run
        modes = np.full((run.num_inference_steps, run.rows, run.sites), Mode.REUSE + self.order)
        modes[:: self.k] = Mode.COMPUTE
        return modes.astype(np.int8)

    def decide(self, info: StepInfo) -> Decision:
        """Count steps."""
        between = Mode(Mode.REUSE + self.order)
        return uniform_decision(info.run, between if info.step % self.k else Mode.COMPUTE)


class Newton(Delegating):
    """Space the computed steps of any request evenly, and forecast between by Newton's line.

    Nothing is learned, so any pipeline can be run with it at once. It is `EveryK(k, order=1)` for
    any share, so that one is measured for both. A line goes wrong nowhere: parabolas were 1 to 2 dB
    better on the embedded pipeline, and up to 10 dB worse on a guided one of random weights.

    Args:
        budget: Share of full compute that may be spent, in (0, 1]; less is faster and worse.
    """

    def __init__(self, budget: float) -> None:
        check_within("budget", budget, 0, 1, above=True)
        self.budget = budget

    def reset(self, run: RunInfo) -> None:
        """Make the schedule of the request's steps; the first step always computes."""
        computes = max(run.sites, computes_of(self.budget, run.site_steps))
        schedule = spaced(run.num_inference_steps, run.sites, computes)
        self._delegate = StaticSchedule(schedule)
        self._delegate.reset(run)


class ThresholdRule:
    """Shared form of the threshold rules: an error estimate per row, compared with a threshold."""

    probe_blocks = 0
    between = Mode.REUSE

    def __init__(self, threshold: float) -> None:
        check_within("threshold", threshold, 0)
        self.threshold = threshold

    def reset(self, run: RunInfo) -> None:
        """Forget the signals of the request before."""
        self._accumulated: Floats = np.zeros(run.rows)

    def _decide_rows(self, info: StepInfo, computing: NDArray[np.bool_]) -> Decision:
        decision = uniform_decision(info.run, self.between)
        decision.modes[computing] = Mode.COMPUTE
        return decision


class TeaCache(ThresholdRule):
    """Compute when the accumulated, rescaled change of the modulated input exceeds a threshold.

    Args:
        threshold: Larger is faster and worse.
        coefficients: Polynomial that maps relative change of the modulated input to that of the
            output.

    Source: TeaCache, arXiv 2411.19108; the rule of its FLUX implementation.
    """

    def __init__(self, threshold: float, coefficients: tuple[float, ...] = TEACACHE_FLUX) -> None:
        super().__init__(threshold)
        self.coefficients = coefficients

    def reset(self, run: RunInfo) -> None:
        """Forget the signals of the request before."""
        super().reset(run)
        self._modulated: Tensor | None = None

    def decide(self, info: StepInfo) -> Decision:
        """Accumulate; the first and the last step always compute."""
        modulated = info.modulated()
        computing = np.ones(info.run.rows, dtype=bool)
        if self._modulated is not None and info.step < info.run.num_inference_steps - 1:
            change = relative_l1(modulated, self._modulated)
            self._accumulated = self._accumulated + np.polyval(self.coefficients, change)
            computing = self._accumulated >= self.threshold
        self._accumulated = np.where(computing, 0.0, self._accumulated)
        self._modulated = modulated
        return self._decide_rows(info, computing)


class FBCache(ThresholdRule):
    """Compute when the first block's residual differs from that of the last computed step.

    Args:
        threshold: Relative difference; larger is faster and worse.

    Source: First Block Cache of ParaAttention, as in diffusers' `FirstBlockCacheConfig`.
    """

    probe_blocks = 1

    def reset(self, run: RunInfo) -> None:
        """Forget the signals of the request before."""
        super().reset(run)
        self._reference: Tensor | None = None

    def decide(self, info: StepInfo) -> Decision:
        """Compare the probe with its reference."""
        probe = info.probe_residual
        assert probe is not None, "probe_blocks = 1 makes the runner pass it"
        if self._reference is None:
            computing = np.ones(info.run.rows, dtype=bool)
            self._reference = probe
        else:
            computing = relative_l1(probe, self._reference) >= self.threshold
            fresh = torch.as_tensor(computing, device=probe.device)[:, None]
            self._reference = torch.where(fresh, probe, self._reference)
        return self._decide_rows(info, computing)


class EasyCache(ThresholdRule):
    """Compute when the output has probably changed by more than a threshold since it was computed.

    The rate at which the output follows the input is measured at computed steps.

    Args:
        threshold: Accumulated relative change; larger is faster and worse.
        start: Share of the steps before which everything computes.
        end: Share of the steps after which everything computes.

    Source: EasyCache, arXiv 2507.02860, in the form of ComfyUI's node (`reuse_threshold`, 15 % to
    95 %).
    """

    def __init__(self, threshold: float, *, start: float = 0.15, end: float = 0.95) -> None:
        super().__init__(threshold)
        self.start, self.end = start, end

    def reset(self, run: RunInfo) -> None:
        """Forget the signals of the request before."""
        super().reset(run)
        self._rate: Floats = np.full(run.rows, np.nan)
        self._computed = np.zeros(run.rows, dtype=bool)
        self._input: Tensor | None = None
        self._reference_input: Tensor | None = None
        self._reference_output: Tensor | None = None

    def decide(self, info: StepInfo) -> Decision:
        """Estimate the change of the output from that of the input."""
        self._learn(info.last_output)
        place = info.step / info.run.num_inference_steps
        computing = np.ones(info.run.rows, dtype=bool)
        if (
            self._input is not None
            and self._reference_output is not None
            and self.start <= place < self.end
        ):
            moved = mean_l1(info.latents - self._input)
            expected = self._rate * moved / mean_l1(self._reference_output)
            self._accumulated = self._accumulated + np.where(np.isnan(expected), np.inf, expected)
            computing = self._accumulated >= self.threshold
        self._accumulated = np.where(computing, 0.0, self._accumulated)
        self._computed, self._input = computing, info.latents
        return self._decide_rows(info, computing)

    def _learn(self, output: Tensor | None) -> None:
        """Take the output of the step before, where it was computed, as the new reference."""
        if output is None or self._input is None or not self._computed.any():
            return
        if self._reference_input is None or self._reference_output is None:
            self._reference_input, self._reference_output = self._input, output
            return
        moved = mean_l1(self._input - self._reference_input)
        changed = mean_l1(output - self._reference_output)
        rate = np.divide(changed, moved, out=np.full_like(moved, np.nan), where=moved > 0)
        self._rate = np.where(self._computed, rate, self._rate)
        fresh = torch.as_tensor(self._computed, device=output.device)
        fresh = fresh.view(-1, *(1,) * (output.ndim - 1))
        self._reference_input = torch.where(fresh, self._input, self._reference_input)
        self._reference_output = torch.where(fresh, output, self._reference_output)


def mean_l1(tensor: Tensor) -> Floats:
    """Return the mean magnitude of every row, in one host sync: (rows,)."""
    return tensor.abs().flatten(1).mean(1).double().cpu().numpy()


def relative_l1(new: Tensor, old: Tensor) -> Floats:
    """Return mean |new - old| / mean |old| of every row: (rows,)."""
    moved = (new - old).abs().flatten(1).mean(1)
    return (moved / old.abs().flatten(1).mean(1)).double().cpu().numpy()
