"""Play requests on simulated machines, tick by tick: who is admitted, who computes, who is done.

Decides nothing that a rule decides. Requests wait in the order of their deadlines; one that cannot
be in time any more is dropped; and a row that another compute would make late is finished without.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ditcache_rl.queueing.fronts import Bools, Fronts, Ints
from ditcache_rl.queueing.rules import Rule
from ditcache_rl.queueing.state import NONE_YET, QueueState, TickCosts
from ditcache_rl.queueing.traffic import Traffic
from ditcache_rl.types import Floats

#: Requests that may wait on a machine; who comes when all places are taken is refused.
PLACES = 32
#: Clocks add up many ticks: a deadline counts as kept within this share of a compute.
_ROUNDING = 1e-6


class Answered(NamedTuple):
    """What became of each request: (machines, requests)."""

    psnr_db: Floats
    """0 where there was no image in time."""
    finish_s: Floats
    """inf where there was no image."""
    computes: Ints


class Machines:
    """Machines side by side, each with its requests and its clock.

    Args:
        traffic: What comes; it is copied.
        fronts: Where computes are placed, and what they are worth.
        ticks: What a tick takes, and how many rows there are.
        together: Whether rows that are due to compute wait until all active rows are due. Then a
            tick is a compute of every row, with the estimates before it; else a step of every row.
    """

    def __init__(
        self, traffic: Traffic, fronts: Fronts, ticks: TickCosts, *, together: bool
    ) -> None:
        self.traffic = Traffic(traffic.arrival_s.copy(), traffic.deadline_s.copy())
        self.fronts, self.ticks, self.together = fronts, ticks, together
        machines, requests = traffic.arrival_s.shape
        self.queue = QueueState.empty(machines, ticks.rows, PLACES)
        self.came = np.zeros(machines, dtype=np.int64)
        self._request = np.zeros((machines, ticks.rows), dtype=np.int64)
        self._waiting = np.zeros((machines, PLACES), dtype=np.int64)
        self.served = Answered(
            np.zeros((machines, requests)),
            np.full((machines, requests), np.inf),
            np.zeros((machines, requests), dtype=np.int64),
        )
        self._admit()

    def restart(self, which: Ints, traffic: Traffic) -> None:
        """Give some machines new requests, as many as before; what they did is forgotten."""
        empty = QueueState.empty(len(which), self.ticks.rows, PLACES)
        for own, new in zip((*self.queue, *self.traffic), (*empty, *traffic), strict=True):
            own[which] = new
        for own, none in zip((self.came, *self.served), (0, 0.0, np.inf, 0), strict=True):
            own[which] = none
        self._admit()

    @property
    def done(self) -> Bools:
        """(machines,) which have nothing more to do."""
        all_came = self.came == self.traffic.arrival_s.shape[1]
        done: Bools = all_came & ~self.queue.active.any(axis=1) & (self.queue.waiting == 0)
        return done

    def tick(self, grants: Ints) -> None:
        """Play a tick on every machine, and admit who came meanwhile.

        Args:
            grants: (machines, rows) further computes of each row, as a rule gives them; a row that
                has not begun gets at least one.
        """
        queue, steps, started = self.queue, self.fronts.steps, self.queue.made > 0
        computes = np.clip(grants, ~started, steps - queue.step)
        due = self.fronts.placement.next_stop(computes, queue.older, queue.newest, queue.step)
        land = due if self.together else np.minimum(due, queue.step + 1)
        computing = queue.active & (due < steps) & (self.together | (due == queue.step))
        ends_s = queue.now_s + sum(self._seconds(computing, land))
        after_s = self.ticks.estimate_s * (steps - land - computing)
        late = queue.active & (ends_s[:, None] + after_s > queue.deadline_s + self._rounding_s)
        queue.active[late & ~started] = False
        land, computing = np.where(late, steps, land), computing & ~late
        estimates_s, computes_s = self._seconds(computing, land)
        queue.now_s[:] += estimates_s
        self._end(queue.active & ~computing & (land == steps))
        queue.now_s[:] += computes_s
        costs = self.fronts.costs[queue.older, queue.newest, np.minimum(land, steps - 1)]
        queue.spent[:] += np.where(computing & started, costs, 0.0)
        queue.older[:] = np.where(computing, queue.newest, queue.older)
        queue.newest[:] = np.where(computing, land, queue.newest)
        queue.step[:] = land + computing
        queue.made[:] += computing
        queue.left[:] = computes - computing
        self._end(queue.active & (queue.step == steps))
        self._admit()

    @property
    def _rounding_s(self) -> float:
        return _ROUNDING * float(self.ticks.compute_s[1])

    def _seconds(self, computing: Bools, land: Ints) -> tuple[Floats, Floats]:
        """Tell what estimates and computes of a tick take: (machines,) each."""
        estimated = np.where(self.queue.active, land - self.queue.step, 0).sum(axis=1)
        return self.ticks.estimate_s * estimated, self.ticks.compute_s[computing.sum(axis=1)]

    def _end(self, ended: Bools) -> None:
        """Hand out images; rows that end have estimated up to the last step."""
        queue = self.queue
        machine, row = np.nonzero(ended)
        older, newest = queue.older[ended], queue.newest[ended]
        costs = queue.spent[ended] + self.fronts.costs[older, newest, self.fronts.steps]
        finish_s = queue.now_s[machine]
        kept = finish_s <= queue.deadline_s[ended] + self._rounding_s
        at = machine, self._request[machine, row]
        self.served.psnr_db[at] = np.where(kept, self.fronts.worth.psnr_db(costs), 0.0)
        self.served.finish_s[at] = finish_s
        self.served.computes[at] = queue.made[ended]
        queue.active[ended] = False

    def _admit(self) -> None:
        """Let requests come, drop those that are lost, and begin as many as there are rows."""
        while True:
            self._come()
            self._drop()
            self._begin()
            idle = ~self.queue.active.any(axis=1) & (self.came < self.traffic.arrival_s.shape[1])
            if not idle.any():
                return
            self.queue.now_s[idle] = np.maximum(self._next_s(), self.queue.now_s)[idle]

    def _next_s(self) -> Floats:
        """Return when the next request comes: (machines,), inf where none does."""
        requests = self.traffic.arrival_s.shape[1]
        every = np.arange(len(self.came))
        next_s = self.traffic.arrival_s[every, np.minimum(self.came, requests - 1)]
        return np.where(self.came < requests, next_s, np.inf)

    def _come(self) -> None:
        queue = self.queue
        while True:
            comes = np.flatnonzero(self._next_s() <= queue.now_s)
            if not len(comes):
                return
            request = self.came[comes]
            self.came[comes] += 1
            free = np.isinf(queue.waiting_s[comes, -1])
            comes, request = comes[free], request[free]
            queue.waiting_s[comes, -1] = self.traffic.deadline_s[comes, request]
            self._waiting[comes, -1] = request
            self._sort(comes)

    def _drop(self) -> None:
        """Forget who could not be in time even alone."""
        queue, ticks = self.queue, self.ticks
        least_s = float(ticks.compute_s[1]) + ticks.estimate_s * (self.fronts.steps - 1)
        lost = queue.waiting_s + self._rounding_s < queue.now_s[:, None] + least_s
        queue.waiting_s[lost] = np.inf
        self._sort(np.flatnonzero(lost.any(axis=1)))

    def _sort(self, which: Ints) -> None:
        """Let the earliest deadline come first."""
        order = self.queue.waiting_s[which].argsort(axis=1, kind="stable")
        for places in (self.queue.waiting_s, self._waiting):
            places[which] = np.take_along_axis(places[which], order, axis=1)

    def _begin(self) -> None:
        queue = self.queue
        while True:
            which = np.flatnonzero(~queue.active.all(axis=1) & np.isfinite(queue.waiting_s[:, 0]))
            if not len(which):
                return
            row = queue.active[which].argmin(axis=1)
            queue.active[which, row] = True
            queue.left[which, row] = NONE_YET
            queue.deadline_s[which, row] = queue.waiting_s[which, 0]
            self._request[which, row] = self._waiting[which, 0]
            for numbers in (queue.step, queue.older, queue.newest, queue.spent, queue.made):
                numbers[which, row] = 0
            for places in (queue.waiting_s, self._waiting):
                places[which, :-1] = places[which, 1:]
            queue.waiting_s[which, -1] = np.inf


def serve(
    traffic: Traffic, rule: Rule, fronts: Fronts, ticks: TickCosts, *, together: bool
) -> Answered:
    """Play requests under a rule up to the last one; arguments as of `Machines`."""
    machines = Machines(traffic, fronts, ticks, together=together)
    while not machines.done.all():
        machines.tick(rule.grant(machines.queue))
    return machines.served
