"""What every gap costs an image, and paths around those that cost least."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares

from ditcache_rl.schedules import ComputePath
from ditcache_rl.schedules.placement import Placement
from ditcache_rl.search.calibrate import Products, fitted_gap_costs
from ditcache_rl.types import Floats

#: How far plans are moved from the best ones so that many gaps are seen: of log costs.
_SHAKE = 0.5


def fit_costs(products: Products, paths: Sequence[ComputePath], psnr_db: Floats) -> Floats:
    """Scale what gaps lack in full compute to what images on paths lack.

    Args:
        products: Of full compute.
        paths: That images were drawn on.
        psnr_db: (paths,) of these images.

    Returns:
        (T, T, T + 1) mean squares, of which those of a path add up to that of its image.
    """
    base, sigmas = fitted_gap_costs(products), products.sigmas
    steps = len(base)
    log_base = np.log(base + 1e-12)
    start = np.broadcast_to(sigmas[None, :steps, None], base.shape)
    stop = np.broadcast_to(sigmas[None, None, :], base.shape)
    columns = np.stack([np.ones_like(base), log_base, start, stop, start**2, stop**2, start * stop])
    gaps = [
        tuple(np.transpose([(i, j, k) for i, j, k in _gaps(path, steps) if k - j > 1]).astype(int))
        for path in paths
    ]
    at = [columns[(slice(None), *gap)] for gap in gaps]
    wanted = -psnr_db * math.log(10) / 10

    def missed(numbers: Floats) -> Floats:
        logs = [np.logaddexp.reduce(numbers @ part) for part in at]
        near = np.array(logs) - wanted
        return np.concatenate([near, 0.1 * (numbers - first)])

    first = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    found = least_squares(missed, first, loss="soft_l1").x
    costs = np.exp(np.einsum("n,nijk->ijk", found, columns))
    later = np.arange(steps + 1)[None, None, :] > np.arange(steps)[None, :, None] + 1
    return np.where(later, costs, 0.0)


def _gaps(path: ComputePath, steps: int) -> list[tuple[int, int, int]]:
    ends = (path[0], *path, steps)
    return list(zip(ends, ends[1:], ends[2:], strict=False))


def shaken_paths(costs: Floats, count: int, rng: np.random.Generator) -> list[ComputePath]:
    """Draw paths around the best ones, of any number of computes up to half, on changing plans."""
    return [_shaken_path(costs, rng) for _ in range(count)]


def _shaken_path(costs: Floats, rng: np.random.Generator) -> ComputePath:
    steps = len(costs)
    most = max(2, steps // 2 - 2)
    shaken = Placement(costs * np.exp(_SHAKE * rng.standard_normal(costs.shape)), most)
    path, older, left = [0], 0, int(rng.integers(1, most))
    while left > 0:
        if rng.random() < 0.3:  # the speed has changed
            left = int(np.clip(left + rng.integers(-2, 3), 1, most))
        stop = shaken.next_stop(
            np.array([left]), np.array([older]), np.array([path[-1]]), path[-1] + 1
        )[0]
        if stop >= steps:
            break
        older, left = path[-1], left - 1
        path.append(int(stop))
    return tuple(path)
