"""Where the next step is computed best, for whatever is left to compute: an exact program.

The cost of a gap depends on the computed step before it and on the one before that. So the best way
on from any two computed steps follows from a table that is filled once, and a controller that may
change its mind at every step looks there.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import ShapeError
from ditcache_rl.schedules.schedule import ComputePath
from ditcache_rl.types import Floats

#: Costs grow with about so high a power of a gap's length; their roots are nearly straight.
_POWER = 4
#: A step, or one for each of some rows.
Step = NDArray[np.int64] | int


class Placement:
    """The best next computed step from everywhere.

    Where one is: `step` is next, and the last two computed steps before it are `older` and
    `newest`, equal while there is one. At step 0 both are 0, and it is computed in any case.

    Args:
        costs: (T, T, T + 1) cost of skipping from computed step j to the next computed step k when
            i is the computed step before j, at [i, j, k]; i = j where there is none.
        most: Most further computes that are asked for; all steps but the first by default.

    Attributes:
        steps: Denoising steps, T.
        ahead: (most + 1, T, T) least cost of the rest at [left, i, j], with so many computes left
            after j.

    Raises:
        ShapeError: If the costs have another shape.
    """

    def __init__(self, costs: Floats, most: int | None = None) -> None:
        self.steps, self.costs = len(costs), costs
        steps, most = self.steps, len(costs) - 1 if most is None else most
        if costs.shape != (steps, steps, steps + 1):
            raise ShapeError(f"expected gap costs of shape (T, T, T + 1), received {costs.shape}")
        self.ahead = np.empty((most + 1, steps, steps))
        self.ahead[0] = costs[:, :, steps]
        for left in range(1, most + 1):
            self.ahead[left] = self._ways_on(left).min(axis=2)

    def _ways_on(self, left: int) -> Floats:
        """Return the cost of the rest by older, newest and next stop, T first, then downwards."""
        later = np.triu(np.ones((self.steps, self.steps), dtype=bool), 1)  # (j, k): k after j
        costs = self.costs
        through = np.where(later, costs[:, :, : self.steps] + self.ahead[left - 1][None], np.inf)
        return np.concatenate([costs[:, :, self.steps :], through[:, :, ::-1]], axis=2)

    @cached_property
    def _stops(self) -> NDArray[np.integer[Any]]:
        """Best next stop by left, older, newest and step, for many rows at once."""
        steps = self.steps
        shape = len(self.ahead), steps, steps, steps + 1
        stops = np.full(shape, steps, dtype=np.min_scalar_type(steps))
        for left in range(1, len(self.ahead)):
            # Of equals the first is taken.
            ways = self._ways_on(left)
            least = np.minimum.accumulate(ways, axis=2)
            better = np.where(ways[:, :, 1:] < least[:, :, :-1], np.arange(1, steps + 1), 0)
            stops[left, :, :, :steps] = steps - np.maximum.accumulate(better, axis=2)[:, :, ::-1]
        stops[:, 0, 0, 0] = 0
        return stops

    def next_stop(
        self,
        left: NDArray[np.int64],
        older: NDArray[np.int64],
        newest: NDArray[np.int64],
        step: Step,
    ) -> NDArray[np.int64]:
        """Return the best next computed step at or after `step`; T where none is worth it.

        Args:
            left: (...) computes left.
            older: (...) the computed step before the newest; the newest where there is none.
            newest: (...).
            step: (...) the first that may be chosen, up to T.
        """
        few = np.clip(left, 0, len(self.ahead) - 1)
        return np.asarray(self._stops[few, older, newest, step], dtype=np.int64)

    def due(
        self, older: NDArray[np.int64], newest: NDArray[np.int64], step: Step
    ) -> NDArray[np.bool_]:
        """Tell by computes left whether the best way on computes `step`: (..., most + 1).

        Arguments as of `next_stop`, with `step` below T.
        """
        return np.moveaxis(self._stops[:, older, newest, step] == step, 0, -1)

    def least_costs(
        self, older: NDArray[np.int64], newest: NDArray[np.int64], step: Step
    ) -> Floats:
        """Return the least cost of the rest by computes left: (..., most + 1).

        The gap that is open at `step` is part of it. Arguments as of `next_stop`; at step 0 having
        no computes left costs inf.
        """
        return np.asarray(self._least[older, newest, step])

    @cached_property
    def _least(self) -> Floats:
        """Least cost of the rest by older, newest, step and left, for many rows at once."""
        older, newest = np.ogrid[: self.steps, : self.steps]
        least = np.empty((self.steps, self.steps, self.steps + 1, len(self.ahead)))
        for left, stops in enumerate(self._stops):
            at = older[..., None], newest[..., None], stops
            rest = self.ahead[left - 1, newest[..., None], np.minimum(stops, self.steps - 1)]
            least[..., left] = self.costs[at] + np.where(stops < self.steps, rest, 0.0)
        least[0, 0, 0] = np.append(np.inf, least[0, 0, 1, :-1])
        return least

    def ways(
        self,
        left: NDArray[np.int64],
        older: NDArray[np.int64],
        newest: NDArray[np.int64],
        step: int,
    ) -> tuple[Floats, Floats]:
        """Return the least cost of the rest if `step` computes, and if it does not.

        No table of every case is made for it, which takes as many bytes as steps to the fourth
        power.

        Args:
            left: (rows, counts) computes left, several numbers side by side.
            older: (rows,) as in `next_stop`.
            newest: (rows,) likewise.
            step: Likewise.

        Returns:
            (rows, counts) each; the first is infinite where no computes are left.
        """
        few = np.minimum(np.maximum(left, 1), len(self.ahead) - 1) - 1
        gaps = self.costs[older, newest, step : self.steps]
        if step == 0:
            gaps[:, 0] = np.inf  # the newest one
        through = gaps[:, None] + self.ahead[few, newest[:, None], step : self.steps]
        never = self.ahead[0, older, newest][:, None]
        later = np.minimum.reduce(through[:, :, 1:], axis=2, initial=np.inf)
        some = left > 0
        now = np.where(some, through[:, :, 0], np.inf)
        return now, np.where(some, np.minimum(later, never), never)

    def path(self, computes: int) -> ComputePath:
        """Return the best path of at most so many computed steps, step 0 among them."""
        path, older = [0], 0
        for left in range(min(computes, len(self.ahead)) - 1, 0, -1):
            ways = self.costs[older, path[-1], path[-1] + 1 :].copy()
            ways[:-1] += self.ahead[left - 1, path[-1], path[-1] + 1 :]
            stop = self.steps - int(ways[::-1].argmin())  # of equals the last one
            if stop == self.steps:
                break
            older = path[-1]
            path.append(stop)
        return tuple(path)


def path_cost(costs: Floats, path: ComputePath) -> float:
    """Add up the costs of a path's gaps, (T, T, T + 1) as `Placement` takes them."""
    ends = (path[0], *path, len(costs))
    return float(sum(costs[i, j, k] for i, j, k in zip(ends, ends[1:], ends[2:], strict=False)))


def costs_at(costs: Floats, own: Floats, sigmas: Floats) -> Floats:
    """Carry what gaps cost over to other noise levels, between those that were measured.

    Args:
        costs: (T, T, T + 1) as `Placement` takes them.
        own: (T + 1,) falling noise levels that they were measured at.
        sigmas: (S + 1,) falling noise levels.

    Returns:
        (S, S, S + 1); beyond the levels that were measured, those of the nearest one.
    """
    steps = len(costs)
    roots = costs ** (1 / _POWER)
    for newest in range(1, steps):
        # What begins between two steps may have the same one below it twice, and no other before.
        roots[newest:, newest] = roots[newest - 1, newest]
    for newest in range(steps - 1):
        # A gap without a step costs nothing where it is measured, and does among finer steps.
        roots[:, newest, newest + 1] = roots[:, newest, newest + 2] / 2
    roots[:, -1, -1] = roots[:, -2, -1]
    starts, stops = _between(own[:-1], sigmas[:-1]), _between(own, sigmas)
    found = np.einsum("ai,bj,ck,ijk->abc", starts, starts, stops, roots, optimize=True)
    found[0, 0] = stops @ costs[0, 0] ** (1 / _POWER)
    start, stop = np.ogrid[: len(sigmas) - 1, : len(sigmas)]
    return np.asarray(np.where(stop > start + 1, found, 0.0) ** _POWER)


def _between(own: Floats, sigmas: Floats) -> Floats:
    """Weigh measured levels so that a straight line through them is met: (levels, own)."""
    units = np.eye(len(own))
    return np.stack([np.interp(-sigmas, -own, unit) for unit in units], axis=1)
