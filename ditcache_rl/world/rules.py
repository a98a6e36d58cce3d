"""Rules that keep a deadline: which steps compute, from what is known at each of them.

Where quality and load are known well, these are hard to beat: what an agent learns is measured
against them, and they are what a deadline is kept with where it learns nothing more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules.placement import Placement
from ditcache_rl.types import Floats
from ditcache_rl.world.forecast import Forecast
from ditcache_rl.world.moment import Moment, Prices


@dataclass(frozen=True)
class Planner(ABC):
    """Place the rest anew at every step: as many computes as are left, each where it is best.

    Attributes:
        placement: Where computes are best.
    """

    placement: Placement

    @abstractmethod
    def left(self, moment: Moment) -> NDArray[np.int64]:
        """Return how many of the steps from here on are to be computed: (rows,)."""

    def __call__(self, moment: Moment) -> NDArray[np.bool_]:
        """Tell which rows compute: (rows,)."""
        return planned(self.placement, moment, self.left(moment))


@dataclass(frozen=True)
class ByDeadline(Planner):
    """Follow the best static schedule for the time that is given, whatever happens.

    Attributes:
        computes: (deadlines, speeds) computes of the schedule that is followed.
        deadlines: Upper edges of all but the last class of times, ascending.
        speeds: Upper edges of all but the last class of slowdowns at the start; none for one class.
    """

    computes: NDArray[np.int64]
    deadlines: Floats
    speeds: Floats

    @property
    def slowest(self) -> float:
        """Slowdown at the start from which on all are alike; infinite for one class."""
        return float(np.exp(self.speeds[-1])) if self.speeds.size else np.inf

    def left(self, moment: Moment) -> NDArray[np.int64]:
        """Return the computes of the schedule that are still to come: (rows,)."""
        deadlines = np.searchsorted(self.deadlines, moment.given)
        speeds = np.searchsorted(self.speeds, moment.gauge[:, _START])
        return np.asarray(self.computes[deadlines, speeds] - moment.computed)


@dataclass(frozen=True)
class Replanning(Planner):
    """Compute as much as fits at the present speed.

    Attributes:
        prices: Of steps.
        rate: Which of the gauge's averages is the present speed, between its places.
        margin: Share of the time left that is kept back.
        jump: Computes' worth of time that is kept back besides.
        reverts: Over how many computes' worth of time a speed returns half-way to the slow average;
            infinite if it stays.
    """

    prices: Prices
    rate: float = 0.0
    margin: float = 0.0
    jump: float = 0.0
    reverts: float = np.inf

    def left(self, moment: Moment) -> NDArray[np.int64]:
        """Return how many computes fit into the time that is left: (rows,)."""
        averages = moment.gauge[:, :3]
        low = int(self.rate)
        high, share = min(low + 1, 2), self.rate - low
        now = (1 - share) * averages[:, low] + share * averages[:, high]
        slowdown = np.exp(now)
        if np.isfinite(self.reverts):
            ahead = np.maximum(moment.left, 0.0) / slowdown / self.reverts
            held = -np.expm1(-ahead) / np.maximum(ahead, 1e-6)
            slowdown = np.exp(held * now + (1 - held) * averages[:, 2])
        return fitting(moment, self.prices, slowdown, self.margin, self.jump)


@dataclass(frozen=True)
class Foreseeing(Planner):
    """Compute as much as a learned forecast says will fit.

    Attributes:
        forecast: Of how many will fit.
        margin: Computes that are kept back.
    """

    forecast: Forecast
    margin: float = 0.0

    def left(self, moment: Moment) -> NDArray[np.int64]:
        """Return how many computes are forecast to fit: (rows,)."""
        fit = self.forecast(moment)[:, 0] - self.margin
        return np.maximum(np.floor(fit), 0).astype(np.int64)


def fitting(
    moment: Moment, prices: Prices, slowdown: Floats, margin: float, jump: float
) -> NDArray[np.int64]:
    """Return how many computes fit into the time that is left, at a slowdown: (rows,)."""
    idle = prices.idle * (moment.steps - moment.step)
    room = moment.left * (1 - margin) / slowdown - idle - jump
    return np.maximum(np.floor(room), 0).astype(np.int64)


def planned(placement: Placement, moment: Moment, left: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell whether the best way on with so many computes left computes now: (rows,)."""
    if moment.step == 0:
        return np.ones(len(left), dtype=bool)
    now, later = placement.ways(left[:, None], moment.older, moment.newest, moment.step)
    return np.asarray(now < later)[:, 0]


_START = 7  # place of `slowdown_at_start` in the gauge's facts
