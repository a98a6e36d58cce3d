"""Schedules decided beforehand."""

from __future__ import annotations

import numpy as np

from ditcache_rl.control.base import Controller, Delegating, planned_modes
from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules.forecast import fitted_steps
from ditcache_rl.schedules.schedule import Schedule
from ditcache_rl.types import HISTORY, Decision, Fitted, Floats, Modes, RunInfo, StepInfo, Tier


class StaticSchedule:
    """Follow schedules.

    Args:
        schedules: One for every row, or one that all rows follow; all of the same steps and sites.

    Raises:
        ConfigError: If they differ in steps or sites.
    """

    probe_blocks = 0

    def __init__(self, *schedules: Schedule) -> None:
        shapes = {schedule.modes.shape for schedule in schedules}
        if len(shapes) != 1:
            raise ConfigError(
                "expected one or more schedules of the same steps and sites, received shapes "
                f"{sorted(shapes)}"
            )
        self.schedules = schedules

    @classmethod
    def of(cls, modes: Modes, coefficients: Floats | None = None) -> StaticSchedule:
        """Follow tables.

        Args:
            modes: (steps, sites) for the same in every row, or (steps, rows, sites).
            coefficients: Those of `Schedule`, (steps, HISTORY) or (steps, rows, HISTORY).

        Raises:
            ConfigError: As of `Schedule`.
        """
        if modes.ndim != 3:
            return cls(Schedule(modes, coefficients))
        steps, rows, _ = modes.shape
        if coefficients is None:
            return cls(*map(Schedule, np.moveaxis(modes, 1, 0)))
        if coefficients.shape != (steps, rows, HISTORY):
            raise ConfigError(
                f"expected coefficients of shape {(steps, rows, HISTORY)} for modes of shape "
                f"{modes.shape}, received {coefficients.shape}"
            )
        return cls(*map(Schedule, np.moveaxis(modes, 1, 0), np.moveaxis(coefficients, 1, 0)))

    def reset(self, run: RunInfo) -> None:
        """Check that the schedules fit the request.

        Raises:
            ConfigError: If steps, rows or sites differ.
        """
        steps, sites = self.schedules[0].modes.shape
        rows = run.rows if len(self.schedules) == 1 else len(self.schedules)
        received = (run.num_inference_steps, run.rows, run.sites)
        if (steps, rows, sites) != received:
            raise ConfigError(
                f"expected a request with (steps, rows, sites) = {(steps, rows, sites)} as in the "
                f"schedule, received {received}"
            )
        modes = np.stack([schedule.modes for schedule in self.schedules], axis=1)
        self._modes = np.broadcast_to(modes, (steps, rows, sites))
        device = np.full((steps, sites), Tier.DEVICE, dtype=np.int8)
        tiers = [device if s.tiers is None else s.tiers for s in self.schedules]
        self._tiers = np.broadcast_to(np.stack(tiers, axis=1), (steps, rows, sites))
        self._fitted: list[Fitted | None] = [None] * steps
        if any(schedule.coefficients is not None for schedule in self.schedules):
            bare = np.full((steps, HISTORY), np.nan)
            own = [bare if s.coefficients is None else s.coefficients for s in self.schedules]
            coefficients = np.broadcast_to(np.stack(own, axis=1), (steps, rows, HISTORY))
            self._fitted = fitted_steps(self._modes[..., 0], coefficients)

    def planned(self) -> Modes:
        """Return the modes of all steps, rows and sites."""
        return self._modes

    def decide(self, info: StepInfo) -> Decision:
        """Look the step up."""
        return Decision(self._modes[info.step], self._tiers[info.step], self._fitted[info.step])


def followed(controller: Controller) -> Schedule | None:
    """Return the schedule that a controller follows in every row of a request, after its `reset`.

    None if it decides as it goes, or row by row.
    """
    while isinstance(controller, Delegating):
        controller = controller.chosen
    if isinstance(controller, StaticSchedule):
        first, *others = controller.schedules
        return None if any(other != first for other in others) else first
    modes = planned_modes(controller)
    if modes is None or (modes != modes[:, :1]).any():
        return None
    return Schedule(modes[:, 0])
