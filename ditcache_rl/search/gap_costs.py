"""What every gap costs an image, and paths around those that cost least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq

from ditcache_rl.schedules import ComputePath
from ditcache_rl.schedules.placement import Placement, path_cost
from ditcache_rl.search.calibrate import Products, fitted_gap_costs
from ditcache_rl.types import Floats
from ditcache_rl.world.simulator import psnr_of

#: How far paths are moved from the best ones so that many gaps are seen: of log costs.
_SHAKE = 0.5
#: Logarithms between which the scale of costs is looked for: from latents to images.
_SCALES = (-60.0, 60.0)


def fit_costs(products: Products, paths: Sequence[ComputePath], psnr_db: Floats) -> Floats:
    """Scale what gaps lack in full compute to what images on paths lack.

    One number is fitted. More of them (a power, noise levels of the ends) predict images that they
    were not fitted to no better.

    Args:
        products: Of full compute.
        paths: That images were drawn on.
        psnr_db: (paths,) of these images.

    Returns:
        (T, T, T + 1) mean squares, which add up to that of an image; `Quality` makes dB of them.
    """
    costs = fitted_gap_costs(products)
    totals = np.array([path_cost(costs, path) for path in paths])

    def missed(scale: float) -> float:
        return float((psnr_of(np.exp(scale) * totals) - psnr_db).mean())

    return np.asarray(costs * np.exp(brentq(missed, *_SCALES)))


def shaken_paths(
    costs: Floats, count: int, rng: np.random.Generator, *, longest: int | None = None
) -> list[ComputePath]:
    """Draw paths around the best ones, of up to half of the steps, which may change on the way.

    Args:
        costs: (T, T, T + 1) of gaps.
        count: Of paths.
        rng: Draws them.
        longest: Most computes of a path, where that is less.
    """
    most = max(2, len(costs) // 2 - 2)
    most = most if longest is None else min(most, longest)
    return [_shaken_path(costs, most, rng) for _ in range(count)]


def random_paths(
    steps: int, count: int, rng: np.random.Generator, *, longest: int
) -> list[ComputePath]:
    """Draw paths that nobody would choose, of two computes and more."""
    return [
        (0, *np.sort(rng.permutation(steps - 1)[:more] + 1).tolist())
        for more in rng.integers(1, min(longest, steps), size=count)
    ]


def _shaken_path(costs: Floats, most: int, rng: np.random.Generator) -> ComputePath:
    steps = len(costs)
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
