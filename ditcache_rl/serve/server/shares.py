"""How much each image computes: what it asks for, or less where all would not be in time.

The rule is `FittingPrice`: the lowest price of a compute, common to all, at which everybody who is
here is in time. It is asked whenever somebody begins; who has begun follows a schedule to its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ditcache_rl.inference import Target
from ditcache_rl.policy import Policy
from ditcache_rl.queueing import PRICES_DB, FittingPrice, Fronts, QueueState, at_price
from ditcache_rl.serve.server.costs import CallCosts
from ditcache_rl.serve.server.ticket import Drawing, ImageTicket

#: Schedules of a table that must be measured, for the others to be left out.
_KNOWN = 3
#: PSNR of an image without gaps, as reports have it.
_UNTOUCHED_DB = 60.0
#: Of the time that there is, what may be filled: images take longer than foretold, others come.
#: With all of it 1 % of the requests are late in the queue of docs/serving.md, with this none.
_MARGIN = 0.9
#: Who is past the deadline is taken to have so much time left.
_TINY_S = 1e-3
#: An image of so many times the work counts for no more: what those before it compute then
#: hardly matters to it, and the rule would spend its time on counting.
_MOST_TIMES = 256


class Shares:
    """Decides by a policy and what images cost.

    Args:
        policy: Whose schedules are followed.
        costs: Of images.
        rows: Most that are drawn at a time.
    """

    def __init__(self, policy: Policy, costs: CallCosts, *, rows: int) -> None:
        self._policy, self._costs, self._rows = policy, costs, rows
        self._sites = policy.manifest.sites
        self._fronts = {steps: _fronts(policy, steps) for steps in policy.tables}

    def computes(
        self,
        begun: Sequence[ImageTicket],
        drawn: Sequence[Drawing],
        waiting: Sequence[ImageTicket],
        now: float,
    ) -> list[int]:
        """Return the site computes of each image that begins now.

        Args:
            begun: Of the same size.
            drawn: Whoever began before, of this size too.
            waiting: Whoever comes later, in the order of their deadlines.
            now: Reading of `time.perf_counter`.
        """
        fronts, size, costs = self._fronts[begun[0].steps], begun[0].size, self._costs
        deadlines, rows = self._deadlines(waiting, size), len(drawn) + len(begun)
        queue = QueueState.empty(1, max(self._rows, rows), max(1, len(deadlines)))
        around_s, image_s = costs.around_s(costs.rows_of(begun)), costs.around_s(costs.load(size))
        queue.active[0, :rows] = True
        queue.deadline_s[0, :rows] = [
            *(self._matters_until(one, drawn, now, around_s) for one in drawn),
            *(_left_s(one.deadline, now, around_s) for one in begun),
        ]
        # Every image before somebody has what it takes beside its computes.
        queue.waiting_s[0, : len(deadlines)] = [
            _left_s(one, now, around_s + image_s * (1 + place))
            for place, one in enumerate(deadlines)
        ]
        queue.waiting_s.sort(axis=1)
        # Who has begun computes what is left to it, at any price.
        left = [-(-costs.left(one) // self._sites) for one in drawn]
        reached_db = np.full((1, queue.active.shape[1], 1 + max([fronts.steps, *left])), -np.inf)
        reached_db[0, :, : fronts.steps + 1] = fronts.fresh_db
        reached_db[0, : len(drawn)] = -np.inf
        reached_db[0, range(len(drawn)), left] = 0.0
        ticks = costs.ticks(queue.active.shape[1], self._sites, size)
        rule = FittingPrice(fronts, ticks, together=True, margin=_MARGIN)
        level = int(rule.levels(queue, reached_db)[0])
        worth = int(at_price(fronts.fresh_db, PRICES_DB[[level]])[0]) * self._sites
        free = level == int(np.searchsorted(PRICES_DB, rule.least_db))  # nobody would be late
        return [
            one.most if free and not one.asks_time else min(one.most, max(one.least, worth))
            for one in begun
        ]

    def _matters_until(
        self, one: Drawing, drawn: Sequence[Drawing], now: float, around_s: float
    ) -> float:
        """Return the seconds that one has who is drawn; inf if it is late whatever others do."""
        there_s = one.ticket.deadline - now - around_s
        rows = self._costs.rows_of([other.ticket for other in drawn])
        needed_s = self._costs.together_s(self._costs.left(one), rows)
        return there_s if there_s > needed_s else math.inf

    def target_of(self, ticket: ImageTicket, computes: int) -> Target:
        """Return what the row of an image is asked for."""
        if ticket.floor is not None:
            return ticket.floor
        return Target(budget=computes / (ticket.steps * self._sites))

    def _deadlines(
        self, waiting: Sequence[ImageTicket], size: tuple[int, int] | None
    ) -> list[float]:
        """Return deadlines of the waiting, counted in images of a size.

        One of twice the work waits as two, and of half the work two wait as one, by the deadline of
        the first.
        """
        found, owed, first = list[float](), 0.0, math.inf
        for one in waiting:
            owed += self._costs.load(one.size) / self._costs.load(size)
            first = min(first, one.deadline)
            if owed >= 1:
                found += [first] * min(int(owed), _MOST_TIMES)
                owed %= 1
                first = one.deadline if owed else math.inf
        return [*found, first] if owed else found


def _left_s(deadline: float, now: float, around_s: float) -> float:
    return max(deadline - now - around_s, _TINY_S)


def _fronts(policy: Policy, steps: int) -> Fronts:
    """Return what computes are worth to an image that has not begun.

    That is what the policy has measured of the schedules that it would follow, and not a curve
    through it: a compute between two of them buys nothing. Where it has not measured, images lose
    as those of shapes do.
    """
    table, fresh_db = policy.tables[steps], None
    known = {computes: one.psnr_db for computes, one in table.items() if np.isfinite(one.psnr_db)}
    if len(known) >= _KNOWN and policy.manifest.sites == 1:
        reached_db = np.full(steps + 1, -np.inf)
        reached_db[[*known]] = [*known.values()]
        reached_db[steps] = max(_UNTOUCHED_DB, *known.values())
        fresh_db = np.maximum.accumulate(reached_db)
    return Fronts.nominal(steps, fresh_db)
