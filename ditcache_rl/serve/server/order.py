"""Who begins next, and who would be late at best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ditcache_rl.serve.server.costs import CallCosts
from ditcache_rl.serve.server.ticket import DrawnTicket, ImageTicket


def joining(
    drawn: Sequence[ImageTicket], waiting: Sequence[ImageTicket], costs: CallCosts, *, rows: int
) -> list[ImageTicket]:
    """Return who of the waiting begins now: who goes with the others, as long as there are places.

    Where nobody is drawn, the first one begins, with all that go with it. Later on nobody overtakes
    one who goes with none of those that are drawn, and waits for their end.

    Args:
        drawn: Whoever has begun.
        waiting: In the order of deadlines.
        costs: Of images.
        rows: Most that are drawn, at the policy's own size: of larger images fewer.
    """
    found = list[ImageTicket]()
    for one in waiting:
        first = (*drawn, *found, one)[0]
        if len(drawn) + len(found) >= costs.rows_within(first.size, rows):
            break
        if one.goes_with(first):
            found.append(one)
        elif drawn:
            break
    return found


class PlayedQueue(NamedTuple):
    """What will become of images, by the numbers of their tickets."""

    ends: dict[int, float]
    """Reading of `time.perf_counter` at which each is done."""
    computes: dict[int, int]
    """Site computes of each that had not begun."""


def late_at_best(
    drawn: Sequence[DrawnTicket],
    waiting: Sequence[ImageTicket],
    now: float,
    costs: CallCosts,
    *,
    rows: int,
) -> set[int]:
    """Return the numbers of those who would be late if everybody computed as little as may be.

    Arguments as of `foretell`, but for the order of those who wait.
    """
    ordered = sorted(waiting, key=lambda one: one.deadline)
    ends = foretell(drawn, ordered, now, costs, rows=rows).ends
    every = (*(one.ticket for one in drawn), *ordered)
    return {one.number for one in every if one.deadline < ends[one.number]}


def foretell(
    drawn: Sequence[DrawnTicket],
    waiting: Sequence[ImageTicket],
    now: float,
    costs: CallCosts,
    *,
    rows: int,
    granted: Callable[[ImageTicket, float], int] = lambda one, at: one.least,
) -> PlayedQueue:
    """Play on what is here until everybody is done; nobody comes meanwhile.

    Args:
        drawn: Whoever has begun; computes what it was granted.
        waiting: Whoever has not, in the order in which they begin.
        now: Reading of `time.perf_counter`.
        costs: Of images.
        rows: Most that are drawn, at the policy's own size.
        granted: Site computes of one who begins, and when that is; by default as few as may be.
    """
    left = list(waiting)
    owed = {one.ticket: costs.left(one) for one in drawn}
    found, at = PlayedQueue({}, {}), now
    while owed or left:
        begun = joining([*owed], left, costs, rows=rows)
        if begun:
            left = [one for one in left if one not in begun]
            at += costs.around_s(costs.rows_of(begun))
            computes = {one: granted(one, at) for one in begun}
            found.computes.update((one.number, count) for one, count in computes.items())
            owed |= computes
        ticks = min(owed.values())
        at += costs.together_s(ticks, costs.rows_of([*owed]))
        found.ends.update((one.number, at) for one, count in owed.items() if count == ticks)
        owed = {one: count - ticks for one, count in owed.items() if count > ticks}
    return found


def lost_by(tickets: Sequence[ImageTicket], now: float, costs: CallCosts) -> set[ImageTicket]:
    """Return those who would be late even if they were drawn alone at once."""
    return {
        one
        for one in tickets
        if now + costs.batch_s(one.least, costs.rows_of([one])) > one.deadline
    }
