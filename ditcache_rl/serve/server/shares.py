"""How much each image computes: what it asks for, or less where all would not be in time.

The rule is `FittingPrice`: the lowest price of a compute, common to all, at which everybody who is
here is in time. Rows of a call end together, so it is asked once, when a call begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ditcache_rl.inference import Target
from ditcache_rl.policy import Policy
from ditcache_rl.queueing import PRICES_DB, FittingPrice, Fronts, QueueState, at_price
from ditcache_rl.serve.server.costs import CallCosts
from ditcache_rl.serve.server.ticket import ImageTicket

#: Schedules of a table that must be measured, for the others to be left out.
_KNOWN = 3
#: PSNR of an image without gaps, as reports have it.
_UNTOUCHED_DB = 60.0
#: Of the time that there is, what may be filled: calls take longer than foretold, and others come.
#: With all of it 1 % of the requests are late in the queue of docs/serving.md, with this none.
_MARGIN = 0.9
#: Who is past the deadline is taken to have so much time left.
_TINY_S = 1e-3
#: An image of so many times the work counts for no more: what the batch before it computes then
#: hardly matters to it, and the rule would spend its time on counting.
_MOST_TIMES = 256


class Shares:
    """Decides by a policy and what calls cost.

    Args:
        policy: Whose schedules are followed.
        costs: Of calls.
        rows: Most of a call.
    """

    def __init__(self, policy: Policy, costs: CallCosts, *, rows: int) -> None:
        self._policy, self._costs, self._rows = policy, costs, rows
        self._sites = policy.manifest.sites
        self._fronts = {steps: _fronts(policy, steps) for steps in policy.tables}

    def computes(
        self, batch: Sequence[ImageTicket], waiting: Sequence[ImageTicket], now: float
    ) -> list[int]:
        """Return the site computes of each image of a call that begins now.

        Args:
            batch: Of the same steps and size.
            waiting: Whoever comes later, in the order of their deadlines.
            now: Reading of `time.perf_counter`.
        """
        fronts = self._fronts[batch[0].steps]
        deadlines, size = self._deadlines(waiting, batch[0].size), batch[0].size
        queue = QueueState.empty(1, self._rows, max(1, len(deadlines)))
        around_s = self._costs.around_s(self._costs.rows_of(batch))
        queue.active[0, : len(batch)] = True
        queue.deadline_s[0, : len(batch)] = [_left_s(one.deadline, now, around_s) for one in batch]
        # Every batch before somebody has what a call costs beside its computes.
        queue.waiting_s[0, : len(deadlines)] = [
            _left_s(one, now, around_s * (2 + place // self._rows))
            for place, one in enumerate(deadlines)
        ]
        queue.waiting_s.sort(axis=1)
        ticks = self._costs.ticks(self._rows, self._sites, size)
        rule = FittingPrice(fronts, ticks, together=True, margin=_MARGIN)
        reached_db = np.broadcast_to(fronts.fresh_db, (1, self._rows, fronts.steps + 1))
        level = int(rule.levels(queue, reached_db)[0])
        worth = int(at_price(fronts.fresh_db, PRICES_DB[[level]])[0]) * self._sites
        free = level == int(np.searchsorted(PRICES_DB, rule.least_db))  # nobody would be late
        return [
            one.most if free and not one.asks_time else min(one.most, max(one.least, worth))
            for one in batch
        ]

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
