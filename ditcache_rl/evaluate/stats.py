"""Summaries, intervals and frontiers of what was measured; pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ditcache_rl.types import Floats

#: Resamples of a bootstrap: the ends of a 95 % interval then move by about 1 % of its width.
RESAMPLES = 10_000
#: Resampled indices that are held at a time: 32 MiB of them.
_CHUNK = 4 * 1024 * 1024


class Spread(NamedTuple):
    """Mean and tails of a sample."""

    mean: float
    p5: float
    p95: float


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float
    n: int


def spread_of(values: Floats) -> Spread:
    """Summarise a sample; percentiles are interpolated linearly."""
    p5, p95 = np.percentile(values, [5, 95])
    return Spread(float(np.mean(values)), float(p5), float(p95))


def bootstrap_mean(
    differences: Floats,
    generator: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Bound the mean of paired differences by the percentile bootstrap.

    Args:
        differences: (n,) one per pair, method minus baseline; n >= 1.
        generator: Draws the resamples.
        resamples: How many; more makes the ends steadier and takes longer.
        level: Share of the resampled means inside the interval.
    """
    n = len(differences)
    rows = max(1, _CHUNK // n)
    means = [
        differences[generator.integers(n, size=(min(rows, resamples - start), n))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(differences)), float(low), float(high), n)


def interpolation_weights(points: Sequence[tuple[float, float]], at_seconds: float) -> Floats:
    """Weigh the points of a baseline so that their mix takes a given time.

    The mix is of the two neighbours on the upper envelope (the points than which none is both
    faster and better), linear in the logarithm of the time. Slower than the slowest of them, it is
    that one alone.

    Args:
        points: (seconds, psnr_db) of each setting, in any order; seconds > 0.
        at_seconds: Time to take, > 0.

    Returns:
        (len(points),) weights that sum to 1; all nan below the fastest point, where the baseline
        has nothing to offer.
    """
    envelope: list[int] = []
    best = -np.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            envelope.append(index)
            best = points[index][1]
    if not envelope or at_seconds < points[envelope[0]][0]:
        return np.full(len(points), np.nan)
    times = np.log([points[index][0] for index in envelope])
    place = float(np.interp(np.log(at_seconds), times, np.arange(len(envelope))))
    left = int(place)
    weights = np.zeros(len(points))
    weights[envelope[left]] = 1 - (place - left)
    if place > left:
        weights[envelope[left + 1]] = place - left
    return weights


def interpolate_frontier(points: Sequence[tuple[float, float]], at_seconds: float) -> float:
    """Tell the PSNR of a baseline at a given time, nan below its fastest point.

    Arguments as in `interpolation_weights`.
    """
    weights = interpolation_weights(points, at_seconds)
    # A point without weight has no say, not even where its own value is nan.
    parts = [w * psnr for w, (_, psnr) in zip(weights.tolist(), points, strict=True) if w]
    return float(sum(parts)) if parts else float("nan")
