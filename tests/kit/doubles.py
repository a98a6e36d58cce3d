"""The tiny pipeline in float64, and schedules that nobody fitted."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.zoo.double import in_double
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import HISTORY
from tests.kit.pipelines import build_tiny_pipe


def build_double_pipe() -> Any:
    """Build the tiny pipeline in float64."""
    return in_double(build_tiny_pipe())


def fitted_schedule(steps: int, path: tuple[int, ...], *, seed: int = 0) -> Schedule:
    """Make a schedule whose coefficients nobody fitted: those of a mean of what is known, moved."""
    generator = np.random.default_rng(seed)
    own = np.full((steps, HISTORY), np.nan)
    for step in set(range(steps)) - set(path):
        known = min(HISTORY, sum(one < step for one in path))
        own[step] = 0.0
        own[step, :known] = 1 / known + 0.3 * generator.standard_normal(known)
    return Schedule.on_path(path, steps, own)
