"""Forecast, and check the forecast in one block before it is trusted: SpeCa."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.contender import Setup
from ditcache_rl.control.heuristics import ThresholdRule
from ditcache_rl.schedules.forecast import newton_coefficients, weighted_sum
from ditcache_rl.types import HISTORY, Decision, Mode, RunInfo, StepInfo


class VerifiedForecast(ThresholdRule):
    """Forecast the stack for as long as the forecast of its first block is right.

    The first block is computed at every step. Where what it adds is as far from its own forecast as
    the threshold allows, the step is computed.

    Args:
        threshold: Relative error at the first step; larger is faster and worse.
        decay: What the threshold is multiplied with from the first step to the last.
        order: Of the forecasts.

    Source: SpeCa (arXiv 2509.11628), which forecasts by finite differences, and checks a late
    layer, from a forecast of what comes in; what comes into the first is known, at the same price.
    """

    probe_blocks = 1

    def __init__(self, threshold: float, *, decay: float = 1.0, order: int = 1) -> None:
        super().__init__(threshold)
        self.decay, self.order = decay, order
        self.between = Mode(Mode.REUSE + order)

    def reset(self, run: RunInfo) -> None:
        """Forget the outputs of the request before."""
        super().reset(run)
        self._known: list[Tensor] = []
        self._sigmas = np.full((HISTORY, run.rows), np.nan)

    def decide(self, info: StepInfo) -> Decision:
        """Check the forecast of the first block."""
        probe = info.probe_residual
        assert probe is not None, "probe_blocks = 1 makes the runner pass it"
        valid = np.isfinite(self._sigmas).sum(axis=0)
        computing = valid < min(self.order + 1, HISTORY)
        if not computing.all():
            orders = np.minimum(self.order, np.maximum(valid - 1, 0))
            coefficients = np.stack(
                [
                    newton_coefficients(self._sigmas[:, row], info.sigma, order)
                    for row, order in enumerate(orders.tolist())
                ]
            )
            error = weighted_sum(self._known, coefficients) - probe
            relative = error.flatten(1).norm(dim=1) / probe.flatten(1).norm(dim=1)
            limit = self.threshold * self.decay ** (info.step / info.run.num_inference_steps)
            computing |= ~(relative.cpu().numpy() <= limit)
        self._note(probe, info.sigma, computing)
        return self._decide_rows(info, computing)

    def _note(self, probe: Tensor, sigma: float, computing: Any) -> None:
        """Remember what the first block added in rows that compute."""
        fresh = torch.as_tensor(computing, device=probe.device)[:, None]
        older = [probe, *self._known][:HISTORY]
        kept = [*self._known, *older[len(self._known) :]]
        self._known = [torch.where(fresh, a, b) for a, b in zip(older, kept, strict=True)]
        shifted = np.vstack([np.full(len(computing), sigma), self._sigmas[:-1]])
        self._sigmas = np.where(computing, shifted, self._sigmas)


#: Its name as a contender.
VERIFIED = "SpeCa-like"
#: What is searched beside the threshold.
VERIFIED_OPTIONS: dict[str, tuple[Any, ...]] = {"order": (1, 2), "decay": (1.0, 0.3, 0.1, 3.0)}


def verified(setup: Setup, value: float) -> dict[str, Any]:
    """Follow the rule with the settings that were searched; the knob is its threshold."""
    return {"controller": VerifiedForecast(value, **setup.settings.get(VERIFIED, {}))}
