"""Statistics over trainings from several seeds, after rliable (arXiv 2108.13264).

Computed here because that package does not load beside the present pandas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import trim_mean

from ditcache_rl.types import Floats

_RESAMPLES = 2000


def iqm(table: Floats) -> float:
    """Return the interquartile mean of all entries."""
    return float(trim_mean(table, 0.25, axis=None))


def stratified(
    table: Floats, statistic: Callable[[Floats], float], rng: np.random.Generator
) -> dict[str, float]:
    """Return a statistic of (seeds, budgets) with its 95 % interval, seeds resampled by budget.

    It need not be a mean, and budgets differ by more than seeds do: so it is resampled.
    """
    seeds, budgets = table.shape
    drawn = [
        statistic(table[rng.integers(seeds, size=table.shape), np.arange(budgets)])
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": float(statistic(table)), "low": float(low), "high": float(high)}
