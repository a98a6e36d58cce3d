"""Where the next step is computed best, for whatever is left to compute: an exact program.

The cost of a gap depends on the computed step before it and on the one before that. So the best way
on from any two computed steps follows from a table that is filled once, and a controller that may
change its mind at every step looks there.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import ShapeError
from ditcache_rl.schedules.schedule import ComputePath
from ditcache_rl.types import Floats

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
        self.ahead = np.repeat(costs[None, :, :, steps], most + 1, axis=0)
        # By left, older, newest and step.
        shape = most + 1, steps, steps, steps + 1
        self._stops = np.full(shape, steps, dtype=np.min_scalar_type(steps))
        later = np.triu(np.ones((steps, steps), dtype=bool), 1)  # (j, k): k after j
        for left in range(1, most + 1):
            # Of a gap to k and the rest: (i, j, k). The ways on: none, then every step from the
            # last down; of equals the first is taken.
            through = np.where(later, costs[:, :, :steps] + self.ahead[left - 1][None], np.inf)
            ways = np.concatenate([costs[:, :, steps:], through[:, :, ::-1]], axis=2)
            least = np.minimum.accumulate(ways, axis=2)
            better = np.where(ways[:, :, 1:] < least[:, :, :-1], np.arange(1, steps + 1), 0)
            stops = steps - np.maximum.accumulate(better, axis=2)
            self._stops[left, :, :, :steps] = stops[:, :, ::-1]
            self.ahead[left] = least[:, :, -1]
        self._stops[:, 0, 0, 0] = 0

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

    def path(self, computes: int) -> ComputePath:
        """Return the best path of at most so many computed steps, step 0 among them."""
        path, older = [0], 0
        while len(path) < computes:
            stops = self.next_stop(
                np.array([computes - len(path)]),
                np.array([older]),
                np.array([path[-1]]),
                path[-1] + 1,
            )
            if stops[0] == self.steps:
                break
            older = path[-1]
            path.append(int(stops[0]))
        return tuple(path)
