"""Summaries and frontiers of what was measured; pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ditcache_rl.types import Floats


class Spread(NamedTuple):
    """Mean and tails of a sample."""

    mean: float
    p5: float
    p95: float

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """Summarise a sample; percentiles are interpolated linearly."""
        p5, p95 = np.percentile(values, [5, 95])
        return cls(float(np.mean(values)), float(p5), float(p95))


def frontier_mix(points: Sequence[tuple[float, float]], at_seconds: float) -> Floats:
    """Mix the points of a baseline so that together they take a given time.

    The mix is of the two neighbours on the upper envelope (the points than which none is both
    faster and better), linear in the logarithm of the time. Slower than the slowest of them, it is
    that one alone.

    Args:
        points: (seconds, psnr_db) of each setting, in any order; seconds > 0.
        at_seconds: Time to take, > 0.

    Returns:
        (len(points),) shares that sum to 1; all nan below the fastest point, where the baseline
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
    mix = np.zeros(len(points))
    mix[envelope[left]] = 1 - (place - left)
    if place > left:
        mix[envelope[left + 1]] = place - left
    return mix


def interpolate_frontier(points: Sequence[tuple[float, float]], at_seconds: float) -> float:
    """Tell the PSNR of a baseline at a given time, nan below its fastest point.

    Arguments as in `frontier_mix`.
    """
    mix = frontier_mix(points, at_seconds)
    # A point without a share has no say, not even where its own value is nan.
    parts = [s * psnr for s, (_, psnr) in zip(mix.tolist(), points, strict=True) if s]
    return float(sum(parts)) if parts else float("nan")
