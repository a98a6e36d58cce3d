"""Rules that share a machine among requests: how many further computes each row gets.

A rule is a pure function of the queue's state. Which steps are computed is not its business: that
is the cheapest path with so many computes (`fronts`). It need not promise anything either: rows
that run out of time are finished without computing by whoever plays the ticks (`machines`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ditcache_rl.queueing.fronts import Fronts, Ints
from ditcache_rl.queueing.state import NONE_YET, QueueState, TickCosts, finish_s
from ditcache_rl.types import Floats

#: Prices of a compute, in dB of PSNR: at the lowest every step is computed that is worth anything,
#: at the highest none but the first. A level is 13 % above the one below it.
PRICES_DB: Floats = np.geomspace(0.01, 30.0, 64)


class Rule(Protocol):
    """Shares a machine among its requests."""

    def grant(self, queue: QueueState) -> Ints:
        """Return how many further computes every row gets: (machines, rows)."""
        ...


@dataclass(frozen=True, slots=True)
class FixedSchedule:
    """One schedule for all requests."""

    computes: int

    def grant(self, queue: QueueState) -> Ints:
        """Give each row what is left of the schedule."""
        return np.maximum(self.computes - queue.made, 0)


@dataclass(frozen=True, slots=True)
class FairShare:
    """Gives each row its equal share of the time up to its deadline, at every tick anew.

    Attributes:
        ticks: What a tick takes.
        share: Of that time which is given away; a part is kept for those who come later.
        most: Computes that no row needs more of.
    """

    ticks: TickCosts
    share: float
    most: int

    def grant(self, queue: QueueState) -> Ints:
        """Divide the time by that of a round in which every request computes once."""
        requests = queue.active.sum(axis=1) + queue.waiting
        rows = self.ticks.rows
        rounds = np.maximum(requests / rows, 1.0)  # more than one where requests wait
        round_s = self.ticks.compute_s[np.clip(requests, 1, rows)] * rounds
        time_s = np.where(queue.active, queue.deadline_s - queue.now_s[:, None], 0.0)
        computes = np.floor(self.share * time_s / round_s[:, None]).astype(np.int64)
        granted: Ints = np.clip(computes, 0, np.maximum(self.most - queue.made, 0))
        return granted


@dataclass(frozen=True, slots=True)
class ChosenAtAdmission:
    """A schedule for each request, chosen by queue and deadline when it begins, and kept.

    Attributes:
        share: What chooses it.
    """

    share: FairShare

    def grant(self, queue: QueueState) -> Ints:
        """Choose for rows that are new."""
        return np.where(queue.left == NONE_YET, self.share.grant(queue), queue.left)


def at_price(psnr_db: Floats, price_db: Floats) -> Ints:
    """Return how many computes are worth their price.

    Args:
        psnr_db: (..., T + 1) by computes, with -inf for what is impossible.
        price_db: Of a compute, in a shape that goes with (...).

    Returns:
        (...) the fewest of the best.
    """
    paid = price_db[..., None] * np.arange(psnr_db.shape[-1])
    bought: Ints = (psnr_db - paid).argmax(axis=-1)
    return bought


@dataclass(frozen=True, slots=True)
class PressurePrice:
    """A price of a compute that grows with the pressure.

    Pressure is the time that full compute would take over the time that there is, of the request
    where it is largest.

    Attributes:
        fronts: What computes are worth.
        ticks: What a tick takes.
        together: Whether rows that are due wait for each other.
        price_db: At a pressure of 1.
        power: With which it grows.
    """

    fronts: Fronts
    ticks: TickCosts
    together: bool
    price_db: float
    power: float

    def grant(self, queue: QueueState) -> Ints:
        """Compute what is worth the price."""
        full = self.fronts.steps - queue.step
        fresh = np.full(len(queue.now_s), self.fronts.steps)
        ratio = pressure(queue, full, fresh, self.ticks, self.fronts.steps, together=self.together)
        price = self.price_db * ratio**self.power
        return at_price(queue.psnr_db(self.fronts), price[:, None])


@dataclass(frozen=True, slots=True)
class FittingPrice:
    """The lowest common price at which every active and waiting request still fits its deadline.

    Attributes:
        fronts: What computes are worth.
        ticks: What a tick takes.
        together: Whether rows that are due wait for each other.
        margin: Pressure that fits; below 1 some time is kept for those who come later.
        least_db: A price that is always asked, so that requests to come find less to do.
    """

    fronts: Fronts
    ticks: TickCosts
    together: bool
    margin: float = 1.0
    least_db: float = 0.2  # at .05 those who come later find .9 dB less, at a load of 3

    def grant(self, queue: QueueState) -> Ints:
        """Compute what is worth the price."""
        psnr_db = queue.psnr_db(self.fronts)
        return at_price(psnr_db, PRICES_DB[self.levels(queue, psnr_db)][:, None])

    def levels(self, queue: QueueState, psnr_db: Floats) -> Ints:
        """Return the price of each machine as a place in `PRICES_DB`, the last if nothing fits.

        Args:
            queue: What there is to do.
            psnr_db: (machines, rows, T + 1) what rows can reach.
        """
        fresh = at_price(self.fronts.fresh_db, PRICES_DB)
        low = np.full(len(queue.now_s), int(np.searchsorted(PRICES_DB, self.least_db)))
        high = np.full(len(queue.now_s), len(PRICES_DB) - 1)
        while (low < high).any():  # what rows compute, and with it the pressure, falls with it
            level = (low + high) // 2
            computes = at_price(psnr_db, PRICES_DB[level][:, None])
            ratio = pressure(
                queue,
                computes,
                fresh[level],
                self.ticks,
                self.fronts.steps,
                together=self.together,
            )
            fits = ratio <= self.margin
            high = np.where(fits, level, high)
            low = np.where(fits, low, np.minimum(level + 1, high))
        return high


def pressure(
    queue: QueueState,
    computes: Ints,
    fresh: Ints,
    ticks: TickCosts,
    steps: int,
    *,
    together: bool,
) -> Floats:
    """Tell how full the time of the tightest request is: (..., machines); up to 1 all of them fit.

    Arguments as of `finish_s`.
    """
    rows_s, waiting_s = finish_s(queue, computes, fresh, ticks, steps, together=together)
    ends_s = np.concatenate([queue.deadline_s, queue.waiting_s[:, : waiting_s.shape[-1]]], axis=1)
    asked = np.concatenate([queue.active, np.isfinite(ends_s[:, queue.active.shape[1] :])], axis=1)
    tiny = 1e-9 * float(ticks.compute_s[1])  # a request that is out of time is not negative
    there_s = np.where(asked, np.maximum(ends_s - queue.now_s[:, None], tiny), np.inf)
    fullest: Floats = (np.concatenate([rows_s, waiting_s], axis=-1) / there_s).max(axis=-1)
    return fullest
