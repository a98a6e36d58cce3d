"""What a row could still be worth by any number of further computes, placed where they are best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules.placement import Placement
from ditcache_rl.types import Floats

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Worth(NamedTuple):
    """Turns the cost of a path's gaps into the mean PSNR of its images.

    Images differ, and none counts for more than `most_db`: below it the PSNR falls with the
    logarithm of the cost, near it the mean bends.
    """

    most_db: float
    """PSNR of an image without gaps."""
    bend_db: float
    """Over how many dB the mean bends."""
    factor: float
    """`bend_db * log(factor)` is what a cost of 1 loses, where that is much."""
    power: float
    """With which power of the cost the loss grows."""

    def psnr_db(self, costs: Floats) -> Floats:
        """Tell what paths of these costs are worth; those that do not exist (inf) are at -inf."""
        return self.most_db - self.bend_db * np.log1p(self.factor * costs**self.power)


#: Fitted to the gap costs of the embedded pipeline at 28 steps (R2 .94 of their logarithm), and to
#: the PSNR of its schedules.
_NOMINAL_POWER = 1.6
_NOMINAL = Worth(most_db=60.0, bend_db=2.95, factor=401.0, power=1.76)


class Fronts:
    """What rows can reach: the best placement of every number of computes, and what it is worth.

    A row is at `step`, which it has not taken; its last two computed steps are `older` and
    `newest`, equal while there is one. A row that has computed nothing is at step 0 with both 0.

    Args:
        costs: (T, T, T + 1) of gaps, as in `Placement`.
        worth: What the cost of all gaps of a row means.

    Attributes:
        fresh_db: (T + 1,) what a row that has not begun can reach by at most so many computes.

    Raises:
        ShapeError: If the costs have another shape.
    """

    def __init__(self, costs: Floats, worth: Worth) -> None:
        self.placement = Placement(costs, len(costs))
        self.costs, self.worth, self.steps = costs, worth, len(costs)
        begin = np.zeros((), dtype=np.int64)
        self.fresh_db = worth.psnr_db(self.placement.least_costs(begin, begin, 0))

    @classmethod
    def nominal(cls, steps: int) -> Fronts:
        """Assume smooth residuals, each forecast on the line through the last two.

        At m steps after the newest and n after the older computed one, such a forecast is off by
        m n times the curvature; where nothing was computed before the newest, n is m + 2. What that
        means in dB are figures of the embedded pipeline.

        Args:
            steps: Of the run.
        """
        ahead = np.arange(steps + 1)
        ones, squares = ahead.cumsum(), (ahead**2).cumsum()  # sums of m and of m * m
        older, newest = np.arange(steps)[:, None, None], np.arange(steps)[None, :, None]
        skipped = np.maximum(ahead - newest - 1, 0)
        apart = np.where(older < newest, newest - older, 2)
        off = (squares[skipped] + apart * ones[skipped]) / steps**2
        return cls(off**_NOMINAL_POWER, _NOMINAL)

    def psnr_db(self, older: Ints, newest: Ints, step: Ints, spent: Floats) -> Floats:
        """Return what rows can reach by at most so many further computes: (..., T + 1).

        A row that has computed nothing reaches -inf without.

        Args:
            older: Computed step before the newest.
            newest: Last computed step.
            step: Step that is next.
            spent: Cost of the gaps that are closed.
        """
        return self.worth.psnr_db(
            self.placement.least_costs(older, newest, step) + spent[..., None]
        )
