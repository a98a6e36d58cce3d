"""Schedules decided beforehand."""

from __future__ import annotations

import numpy as np

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules.forecast import fitted_steps
from ditcache_rl.schedules.plan import PlanRow
from ditcache_rl.types import HISTORY, Decision, Fitted, Floats, Modes, RunInfo, StepInfo, Tier


class StaticSchedule:
    """Follow a table of modes.

    Args:
        modes: `Mode` values, (steps, sites) for the same in every row or (steps, rows, sites); the
            first step must compute every site.
        weights: Fitted weights of the estimates, of the shape of the modes with HISTORY in place of
            the one site; nan where Newton's are taken. None for Newton's everywhere.

    Raises:
        ConfigError: If the first step leaves a site uncomputed, or weights do not fit the modes.
    """

    probe_blocks = 0

    def __init__(self, modes: Modes, weights: Floats | None = None) -> None:
        if modes.ndim not in (2, 3) or not modes.size or modes[0].any():
            first = modes[0].tolist() if modes.size else []
            raise ConfigError(
                "expected a (steps, sites) or (steps, rows, sites) table whose first step computes "
                f"every site, received shape {modes.shape} with first step {first}"
            )
        if weights is not None and (
            modes.shape[-1] != 1 or weights.shape != (*modes.shape[:-1], HISTORY)
        ):
            raise ConfigError(
                f"expected weights of shape {(*modes.shape[:-1], HISTORY)} for a schedule of one "
                f"site, received {weights.shape} for modes of shape {modes.shape}"
            )
        self.modes, self.weights = modes.astype(np.int8), weights

    @classmethod
    def of(cls, row: PlanRow, patterns: Modes) -> StaticSchedule:
        """Return the controller that follows a row; `patterns` is (patterns, sites)."""
        fitted = np.isfinite(row.weights).any()
        return cls(patterns[row.patterns], row.weights if fitted else None)

    def reset(self, run: RunInfo) -> None:
        """Check that the table fits the request.

        Raises:
            ConfigError: If steps, rows or sites differ.
        """
        rows = self.modes.shape[1] if self.modes.ndim == 3 else run.rows
        expected = (self.modes.shape[0], rows, self.modes.shape[-1])
        received = (run.num_inference_steps, run.rows, run.sites)
        if expected != received:
            raise ConfigError(
                f"expected a request with (steps, rows, sites) = {expected} as in the schedule, "
                f"received {received}"
            )
        table = self.modes if self.modes.ndim == 3 else self.modes[:, None]
        self._rows = np.broadcast_to(table, expected)
        self._tiers = np.full(expected[1:], Tier.DEVICE, dtype=np.int8)
        self._fitted: list[Fitted | None] = [None] * run.num_inference_steps
        if self.weights is not None:
            weights = self.weights if self.weights.ndim == 3 else self.weights[:, None]
            weights = np.broadcast_to(weights, (*expected[:2], HISTORY))
            self._fitted = fitted_steps(self._rows[..., 0], weights)

    def planned(self) -> Modes:
        """Return the table, a layer per row of the batch."""
        return self._rows

    def decide(self, info: StepInfo) -> Decision:
        """Read the row of the table."""
        return Decision(self._rows[info.step], self._tiers, self._fitted[info.step])
