"""Grades of sites, and the schedule that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Floats, Mode, Modes


class Grade(IntEnum):
    """How much the image depends on a fresh residual of a site."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2


def grade_sites(
    sensitivity: Floats, *, low: float = 1 / 3, high: float = 2 / 3
) -> NDArray[np.int8]:
    """Grade sites by quantiles of their sensitivity: (sites,) `Grade` values.

    Args:
        sensitivity: (sites,) larger hurts the image more.
        low: Share of the sites up to which they are low.
        high: Share from which they are high.

    Raises:
        ConfigError: If the shares are not in order.
    """
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"expected 0 <= low <= high <= 1, received low {low:g}, high {high:g}")
    places = np.argsort(np.argsort(sensitivity, kind="stable"), kind="stable")
    shares = (places + 0.5) / len(sensitivity)
    grades = np.full(len(sensitivity), Grade.MEDIUM, dtype=np.int8)
    grades[shares <= low] = Grade.LOW
    grades[shares > high] = Grade.HIGH
    return grades


def graded_modes(
    grades: Sequence[int] | NDArray[np.int8],
    steps: int,
    *,
    medium_every: int = 5,
    low_every: int = 10,
    between: Mode = Mode.REUSE,
) -> Modes:
    """Compute what is high always and the rest at intervals: (steps, sites) modes.

    Args:
        grades: `Grade` values, (sites,) or (steps, sites).
        steps: Denoising steps.
        medium_every: Steps between two refreshes where the grade is medium.
        low_every: Steps between two refreshes where it is low.
        between: What is done at the other steps.

    Raises:
        ConfigError: If an interval is below 1, or grades are for another number of steps.
    """
    if min(medium_every, low_every) < 1:
        raise ConfigError(
            f"expected intervals of at least 1 step, received medium_every {medium_every}, "
            f"low_every {low_every}"
        )
    table = np.asarray(grades)
    if table.ndim not in (1, 2) or (table.ndim == 2 and len(table) != steps):
        raise ConfigError(
            f"expected grades (sites,) or ({steps}, sites) for {steps} steps, received shape "
            f"{table.shape}; grade at the steps of the schedule"
        )
    intervals = np.array([low_every, medium_every, 1])[
        np.broadcast_to(table, (steps, table.shape[-1]))
    ]
    modes = np.full(intervals.shape, between, dtype=np.int8)
    age = intervals[0].copy()  # in steps since the last compute: all is due at the first
    for step, interval in enumerate(intervals):
        due = age >= interval
        modes[step, due] = Mode.COMPUTE
        age = np.where(due, 1, age + 1)
    return modes
