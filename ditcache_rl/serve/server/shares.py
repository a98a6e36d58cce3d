"""How much each image computes: what it asks for, or less where others would be late.

Whenever somebody begins, the queue is played on for each number of computes that all could have
who have not begun; nobody has more than its own deadline leaves time for. The number that is worth
most to all of them decides about those who begin, and they follow their schedule to its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ditcache_rl.inference import Target
from ditcache_rl.policy import Policy
from ditcache_rl.queueing import Fronts, at_price
from ditcache_rl.serve.server.costs import CallCosts
from ditcache_rl.serve.server.order import foretell
from ditcache_rl.serve.server.ticket import DrawnTicket, ImageTicket
from ditcache_rl.types import Floats

#: Schedules of a table that must be measured, for the others to be left out.
_KNOWN = 3
#: PSNR of an image without gaps, as reports have it.
_UNTOUCHED_DB = 60.0
#: Of the time that there is, what may be filled: images take longer than foretold, others come.
_MARGIN = 0.8
#: What a step's compute must bring at least to whom a deadline is enough, in dB: it takes time from
#: those who come later.
_LEAST_DB = 0.2
#: So many of those who wait are looked at, and so many numbers of computes are tried: a decision
#: takes milliseconds.
_MOST_WAITING, _MOST_PLAYS = 64, 16


class Shares:
    """Decides by a policy and what images cost.

    Args:
        policy: Whose schedules are followed.
        costs: Of images.
        rows: Most that may be drawn at a time.

    Attributes:
        rows: That are drawn at a time: as many as pay where there is time.
    """

    def __init__(self, policy: Policy, costs: CallCosts, *, rows: int) -> None:
        self._tables, self._costs = policy.tables, costs
        self._worth_db = {steps: _worth_db(policy, steps) for steps in policy.tables}
        price_db = np.array(_LEAST_DB / policy.manifest.sites)
        self._wanted = {n: int(at_price(db, price_db)) for n, db in self._worth_db.items()}
        self.rows = costs.rows_that_pay(rows, self._wanted[policy.steps[0]])

    def computes(
        self,
        begun: Sequence[ImageTicket],
        drawn: Sequence[DrawnTicket],
        waiting: Sequence[ImageTicket],
        now: float,
    ) -> list[int]:
        """Return the site computes of each image that begins now.

        Args:
            begun: Of the same size; they are next.
            drawn: Whoever began before, of this size too.
            waiting: Whoever comes later, in the order of their deadlines.
            now: Reading of `time.perf_counter`.
        """
        every = [*begun, *waiting[:_MOST_WAITING]]
        due = {one: now + _MARGIN * (one.deadline - now) for one in every}
        made = {one.ticket.number: one.computes for one in drawn}

        def played(share: float) -> tuple[float, dict[int, int], bool]:
            def granted(one: ImageTicket, at: float) -> int:
                return self._granted(one, share, due[one] - at)

            ends, found = foretell(drawn, every, now, self._costs, rows=self.rows, granted=granted)
            here, computes = [*(one.ticket for one in drawn), *every], made | found
            kept = [one for one in here if ends[one.number] <= due.get(one, one.deadline)]
            worth_db = sum(self._worth_db[one.steps][computes[one.number]] for one in kept)
            return worth_db, found, kept == here

        wishes = {one.number: self._granted(one, 1.0, math.inf) for one in every}
        best_db, best, in_time = played(1.0)
        if not in_time or best != wishes:
            table = self._tables[begun[0].steps]
            counts = sorted(n for n in table if n < max(wishes.values()))[::-1]
            for count in counts[:: 1 + len(counts) // _MOST_PLAYS]:
                worth_db, found, _ = played(count / table.site_steps)
                if worth_db > best_db:
                    best_db, best = worth_db, found
        return [best[one.number] for one in begun]

    def _granted(self, one: ImageTicket, share: float, left_s: float) -> int:
        """Return the site computes of an image that begins with so much time left."""
        table, costs = self._tables[one.steps], self._costs
        rows = costs.load(one.size) * costs.rows_within(one.size, self.rows)
        fits = (left_s - costs.around_s(rows)) / costs.together_s(1, rows)  # beside all others
        most = min(one.most, self._wanted[one.steps]) if one.asks_time else one.most
        count = int(min(most, round(share * table.site_steps), max(fits, 0.0)))
        return max(one.least, count if count < table.least else table.within(count).computes)

    def target_of(self, ticket: ImageTicket, computes: int) -> Target:
        """Return what the row of an image is asked for."""
        if ticket.floor is not None:
            return ticket.floor
        return Target(budget=computes / (ticket.steps * self._tables[ticket.steps].sites))


def _worth_db(policy: Policy, steps: int) -> Floats:
    """Return what each number of site computes is worth to an image.

    That is what the policy has measured of the schedules that it would follow, and not a curve
    through it: a compute between two of them buys nothing. Where it has not measured, images lose
    as those of shapes do.
    """
    table = policy.tables[steps]
    known = {n: one.unseen_psnr_db for n, one in table.items() if np.isfinite(one.psnr_db)}
    if len(known) < _KNOWN:
        whole = np.arange(table.site_steps + 1) // table.sites
        worth_db: Floats = np.maximum(Fronts.nominal(steps).fresh_db, 0.0)[whole]
        return worth_db
    reached_db = np.zeros(table.site_steps + 1)
    reached_db[[*known]] = [*known.values()]
    reached_db[-1] = max(_UNTOUCHED_DB, *known.values())
    return np.maximum.accumulate(reached_db)
