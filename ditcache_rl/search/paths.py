"""Choose which steps to compute by dynamic programming over measured errors; pure functions.

A path is an ascending tuple of computed steps. It begins with step 0 and has a given length; what
comes after its last step is left out to the end, which is written as node T.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules import ComputePath
from ditcache_rl.types import Floats


def cheapest_path(costs: Floats, length: int, *, last: int | None = None) -> ComputePath:
    """Find the path with the least total cost, where a gap's cost depends on the step before it.

    Args:
        costs: (T, T, T + 1) cost of skipping from computed step j to the next computed step k when
            i is the computed step before j, at [i, j, k]; i = j where there is none.
        length: Computed steps, at least 1.
        last: A step that must be the last computed one.

    Returns:
        The path; its cost is `path_cost`.

    Source: the exact program of DPCache (arXiv 2602.22654).
    """
    steps = len(costs)
    if length == 1:
        return (0,)
    # best[i, j]: least cost of a path of the present length that ends in i, j, up to j.
    best = np.full((steps, steps), np.inf)
    best[0, 1:] = costs[0, 0, 1:steps]
    before: list[NDArray[np.int64]] = []
    for _ in range(length - 2):
        # through[h, i, j]: the same with h before i.
        through = best[:, :, None] + costs[:, :, :steps]
        later = np.arange(steps)[None, :] > np.arange(steps)[:, None]
        through = np.where(later[None], through, np.inf)
        before.append(through.argmin(axis=0))
        best = through.min(axis=0)
    total = best + costs[:, :, steps]
    if last is not None:
        total[:, [j for j in range(steps) if j != last]] = np.inf
    i, j = np.unravel_index(int(np.argmin(total)), total.shape)
    path = [int(j), int(i)]
    for table in reversed(before):
        path.append(int(table[path[-1], path[-2]]))
    return tuple(reversed(path))


def minimax_path(edges: Floats, length: int, *, last: int | None = None) -> ComputePath:
    """Find the path whose worst gap is least; of equals the one whose second worst is, and so on.

    Args:
        edges: (T, T + 1) cost of skipping from computed step j to the next computed step k.
        length: Computed steps, at least 1.
        last: A step that must be the last computed one.

    Source: the lexicographic minimax path of LeMiCa (arXiv 2511.00090).
    """
    steps = len(edges)
    # Per end of a path: its gaps from the worst down, and the path. Adding the same gap to two
    # such lists of one length keeps their order, so the best of a node is part of the best beyond.
    best: dict[int, tuple[tuple[float, ...], ComputePath]] = {0: ((), (0,))}
    for _ in range(length - 1):
        best = {
            k: min(_with_gap(*best[j], edges, k) for j in best if j < k)
            for k in range(1, steps)
            if any(j < k for j in best)
        }
    ends = [j for j in best if last in (None, j)]
    return min(_with_gap(*best[j], edges, steps) for j in ends)[1][:-1]


def _with_gap(
    gaps: tuple[float, ...], path: ComputePath, edges: Floats, k: int
) -> tuple[tuple[float, ...], ComputePath]:
    grown = sorted((*gaps, float(edges[path[-1], k])), reverse=True)
    return tuple(grown), (*path, k)


def threshold_path(errors: Floats, threshold: float, *, last: int | None = None) -> ComputePath:
    """Skip from every computed step as far as the error stays within a threshold.

    Args:
        errors: (T, T, T) error at step t of what steps i and j before it say, at [i, j, t]; i = j
            where there is none before j.
        threshold: Largest error that is accepted.
        last: A step that is always computed.

    Source: the calibration of SmoothCache (arXiv 2411.10510).
    """
    steps, path = len(errors), [0]
    before = 0
    for step in range(1, steps):
        if errors[before, path[-1], step] > threshold or step == last:
            before = path[-1]
            path.append(step)
    return tuple(path)


def threshold_for(errors: Floats, length: int, *, last: int | None = None) -> ComputePath:
    """Find the longest threshold path that has at most `length` computed steps."""
    levels = np.unique(errors)
    low, high = 0, len(levels) - 1
    # The length need not fall with the threshold, but at the highest it is the shortest.
    while low < high:
        middle = (low + high) // 2
        if len(threshold_path(errors, float(levels[middle]), last=last)) <= length:
            high = middle
        else:
            low = middle + 1
    return threshold_path(errors, float(levels[high]), last=last)
