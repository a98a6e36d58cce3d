"""How sure a mean is: its confidence interval, the one that everything here is judged by.

Whoever compares two hands in their differences, one per pair. What is no mean is resampled where it
is reported: ratios, percentiles, and means that are trimmed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes 0.6 s to import

from ditcache_rl.types import Floats

#: Share of intervals that hold what the mean of ever more values goes to.
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    """nan of a single value: neither above nor below anything."""
    high: float
    n: int

    @property
    def ends(self) -> list[float] | None:
        """Both ends for JSON; None where there is no interval."""
        return None if math.isnan(self.low) else [self.low, self.high]


def mean_interval(values: Floats) -> Interval:
    """Bound a mean by Student's t.

    Args:
        values: (n,) of independent draws; n >= 1. To compare, what one has more than the other on
            the same case. A single value has no interval, equal ones a point.
    """
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Interval(mean, math.nan, math.nan, n)
    away = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, float(mean - away), float(mean + away), n)
