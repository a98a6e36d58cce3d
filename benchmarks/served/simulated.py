"""The queue of a server on a simulated clock: its own rules, and what a policy says of quality.

`python -m benchmarks.served.simulated` compares them with fixed schedules, in bursts at 1.3 times
what full compute could serve, on machines whose computed steps cost a number for themselves and
one for each row. No image is drawn: a schedule is worth the mean PSNR that the policy has measured,
on prompts that it was not searched on where it knows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.harness import Benchmark, console, parser
from benchmarks.served.bursts import traffic_of
from ditcache_rl.inference import open_policy
from ditcache_rl.policy import Policy
from ditcache_rl.queueing import Traffic
from ditcache_rl.serve.server.costs import CallCosts
from ditcache_rl.serve.server.order import joining, late_at_best, lost_by
from ditcache_rl.serve.server.shares import Shares
from ditcache_rl.serve.server.ticket import DrawnTicket, ImageTicket

#: Seeds of traces: of the first hundred, rules were chosen.
TRACES, REQUESTS = range(100, 112), 200
#: Standard deviation of the logarithm of what the machine takes, from one begin to the next.
NOISE = 0.05
#: A computed step of a row takes 20 ms on both, as that of the embedded pipeline.
MACHINES = {
    "one by one": {"compute_s": 0.0, "compute_row_s": 0.02},
    "together": {"compute_s": 0.004, "compute_row_s": 0.016},
}
FIXED = (3, 4, 5, 6, 7)
_ROWS, _UNTOUCHED_DB = 8, 60.0
#: Times that a trace is foretold: machines scatter.
_TIMES = 8


class InTime(NamedTuple):
    """What became of the requests of a trace."""

    kept_share: float
    """In time."""
    psnr_db: float
    """Mean of these."""
    compute_share: float
    """Likewise."""


class SimulatedServer:
    """A server on a simulated clock.

    Args:
        policy: Whose schedules are followed.
        costs: Of images.
        rng: Scatters them.
        rows: Most images that are drawn at a time.
    """

    def __init__(
        self, policy: Policy, costs: CallCosts, rng: np.random.Generator, *, rows: int = _ROWS
    ) -> None:
        self._table = policy.tables[policy.steps[0]]
        self._costs, self._rng = costs, rng
        self._shares = Shares(policy, costs, rows=rows)
        self._rows = self._shares.rows

    def serve(self, traffic: Traffic, computes: int | None = None) -> InTime:
        """Serve the requests of one trace.

        Args:
            traffic: One trace.
            computes: Of a fixed schedule for all; None to leave that to the server.
        """
        comes_s = traffic.arrival_s[0]
        tickets = [
            self._ticket(seed, deadline, computes)
            for seed, deadline in enumerate(traffic.deadline_s[0])
        ]
        waiting: list[ImageTicket] = []
        drawn: list[DrawnTicket] = []
        found: list[tuple[float, float]] = []
        place, now, slow = 0, 0.0, 1.0
        while place < len(tickets) or waiting or drawn:
            if not waiting and not drawn:
                now = max(now, comes_s[place])
            while place < len(tickets) and comes_s[place] <= now:
                self._admit(tickets[place], waiting, drawn, now)
                place += 1
            lost = lost_by(waiting, now, self._costs)
            waiting = sorted((one for one in waiting if one not in lost), key=_deadline)
            begun = joining([one.ticket for one in drawn], waiting, self._costs, rows=self._rows)
            if begun:
                waiting = [one for one in waiting if one not in begun]
                chosen = self._shares.computes(begun, drawn, waiting, now)
                made = [self._table.within(count).computes for count in chosen]
                drawn += [DrawnTicket(*one) for one in zip(begun, made, strict=True)]
                slow = float(np.exp(NOISE * self._rng.standard_normal()))
                now += self._costs.around_s(len(begun)) * slow
            now += self._costs.together_s(1, len(drawn)) * slow if drawn else 0.0
            for one in drawn:
                one.forwards += 1
            found += [
                (self._psnr_db(one.computes), one.computes / self._table.site_steps)
                for one in drawn
                if not self._costs.left(one) and now <= one.ticket.deadline
            ]
            drawn = [one for one in drawn if self._costs.left(one)]
        psnr_db, compute_share = np.mean(found or [(0.0, 0.0)], axis=0).tolist()
        return InTime(len(found) / len(tickets), psnr_db, compute_share)

    def _ticket(self, seed: int, deadline: float, computes: int | None) -> ImageTicket:
        table = self._table
        least, most = (table.least, table.site_steps) if computes is None else (computes, computes)
        asks_time = computes is None
        return ImageTicket("", seed, table.steps, None, least, most, None, deadline, asks_time)

    def _admit(
        self, one: ImageTicket, waiting: list[ImageTicket], drawn: list[DrawnTicket], now: float
    ) -> None:
        """Take somebody, or not."""

        def late(*tickets: ImageTicket) -> set[int]:
            return late_at_best(drawn, tickets, now, self._costs, rows=self._rows)

        if not late(*waiting, one) - late(*waiting):
            waiting.append(one)

    def _psnr_db(self, computes: int) -> float:
        found = self._table[computes].unseen_psnr_db
        return found if np.isfinite(found) else _UNTOUCHED_DB


def foretold(
    policy: Policy, costs: CallCosts, traffic: Traffic, *, rows: int, computes: int | None = None
) -> InTime:
    """Say what will become of a trace, in the mean over some simulations.

    Args:
        policy: Whose schedules are followed.
        costs: Of images, as an engine has measured them.
        traffic: One trace.
        rows: Most images that are drawn at a time.
        computes: As of `SimulatedServer.serve`.
    """
    server = SimulatedServer(policy, costs, np.random.default_rng(0), rows=rows)
    found = [server.serve(traffic, computes) for _ in range(_TIMES)]
    return InTime(*np.mean(found, axis=0).tolist())


def _deadline(ticket: ImageTicket) -> float:
    return ticket.deadline


def main() -> None:
    """Simulate, compare, report."""
    given = parser(__doc__).parse_args()
    run = Benchmark()
    policy = open_policy("shapes-ppo")
    figures: dict[str, float] = {}
    details: dict[str, dict[str, list[float]]] = {}
    for name, prices in MACHINES.items():
        costs = CallCosts(row_s=0.03, own_px=64 * 64, **prices)
        image_s = costs.batch_s(policy.steps[0], 1)
        rows = Shares(policy, costs, rows=_ROWS).rows
        traces = [
            traffic_of(REQUESTS, image_s, rows / costs.batch_s(policy.steps[0], rows), seed=seed)
            for seed in TRACES
        ]
        console.print(f"{name}: {image_s:.2f} s an image")
        found = {}
        for computes in (None, *FIXED):
            server = SimulatedServer(policy, costs, np.random.default_rng(1))
            kept = [server.serve(trace, computes) for trace in traces]
            found[computes] = InTime(*np.mean(kept, axis=0).tolist())
        ours = found.pop(None)
        as_many = [one for one in found.values() if one.kept_share >= ours.kept_share] or [
            *found.values()
        ]
        key = name.replace(" ", "_")
        figures[f"{key}_kept_share"] = ours.kept_share
        figures[f"{key}_gain_db"] = ours.psnr_db - max(one.psnr_db for one in as_many)
        details[name] = {str(computes): [*one] for computes, one in found.items()}
        details[name]["ours"] = [*ours]
        console.print(details[name])
    run.finish(figures, details, given.json, title="A simulated queue")


if __name__ == "__main__":
    main()
