"""Where the next step is computed best, for whatever is left to compute: an exact program.

The cost of a gap depends on the computed step before it and on the one before that. So the best way
on from any two computed steps follows from a table that is filled once, and a controller that may
change its mind at every step looks there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules.schedule import ComputePath
from ditcache_rl.types import Floats


class Placement:
    """The best next computed step from everywhere.

    Args:
        costs: (T, T, T + 1) cost of skipping from computed step j to the next computed step k when
            i is the computed step before j, at [i, j, k]; i = j where there is none.
        most: Most further computes that are asked for; all steps by default.

    Attributes:
        steps: Denoising steps, T.
        ahead: (most + 1, T, T) least cost of the rest at [left, i, j], with so many computes left
            after j.
    """

    def __init__(self, costs: Floats, most: int | None = None) -> None:
        self.steps, self.costs = len(costs), costs
        steps, most = self.steps, len(costs) - 1 if most is None else most
        self.ahead = np.empty((most + 1, steps, steps))
        self.ahead[0] = costs[:, :, steps]
        later = np.triu(np.ones((steps, steps), dtype=bool), 1)  # (j, k): k after j
        for left in range(1, most + 1):
            # Of a gap to k and the rest: (i, j, k); stopping now is never worse than no way on.
            through = np.where(later, costs[:, :, :steps] + self.ahead[left - 1][None], np.inf)
            self.ahead[left] = np.minimum(through.min(axis=2), self.ahead[0])

    def next_stop(
        self,
        left: NDArray[np.int64],
        older: NDArray[np.int64],
        newest: NDArray[np.int64],
        step: int,
    ) -> NDArray[np.int64]:
        """Return the best next computed step at or after `step`; T where none is worth it.

        Args:
            left: (rows,) computes left.
            older: (rows,) the computed step before the newest; the newest where there is none.
            newest: (rows,).
            step: The first that may be chosen.
        """
        few = np.clip(left, 0, len(self.ahead) - 1)[:, None]
        # The ways on: none, then every step from the last down; of equals the first is taken.
        stops = np.arange(self.steps - 1, step - 1, -1)
        ways = self.costs[older[:, None], newest[:, None], stops]
        ways = ways + self.ahead[few - 1, newest[:, None], stops]
        ways = np.where((few > 0) & (stops > newest[:, None]), ways, np.inf)
        ways = np.concatenate([self.ahead[0, older, newest][:, None], ways], axis=1)
        return np.asarray(np.append(self.steps, stops)[ways.argmin(axis=1)])

    def ways(
        self,
        left: NDArray[np.int64],
        older: NDArray[np.int64],
        newest: NDArray[np.int64],
        step: int,
    ) -> tuple[Floats, Floats]:
        """Return the least cost of the rest if `step` computes, and if it does not: (rows,) each.

        Infinite where no computes are left. Arguments are those of `next_stop`.
        """
        some = left > 0
        few = np.clip(left, 1, len(self.ahead) - 1) - 1
        stops = np.arange(step, self.steps)
        through = self.costs[older[:, None], newest[:, None], stops]
        through = through + self.ahead[few[:, None], newest[:, None], stops]
        through = np.where(some[:, None] & (stops > newest[:, None]), through, np.inf)
        later = np.concatenate([self.ahead[0, older, newest][:, None], through[:, 1:]], axis=1)
        return through[:, 0], later.min(axis=1)

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
