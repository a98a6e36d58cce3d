"""Who begins next, and who would be late at best."""

from __future__ import annotations

from collections.abc import Sequence

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


def late_at_best(
    drawn: Sequence[DrawnTicket],
    waiting: Sequence[ImageTicket],
    now: float,
    costs: CallCosts,
    *,
    rows: int,
) -> set[int]:
    """Return the numbers of those who would be late if everybody computed as little as may be.

    Arguments as of `ends_at_best`.
    """
    ends = ends_at_best(drawn, waiting, now, costs, rows=rows)
    every = (*(one.ticket for one in drawn), *waiting)
    return {one.number for one in every if one.deadline < ends[one.number]}


def ends_at_best(
    drawn: Sequence[DrawnTicket],
    waiting: Sequence[ImageTicket],
    now: float,
    costs: CallCosts,
    *,
    rows: int,
) -> dict[int, float]:
    """Foretell when everybody is done, if who has not begun computes as little as may be.

    Args:
        drawn: Whoever has begun; computes what it was granted.
        waiting: Whoever has not, in any order.
        now: Reading of `time.perf_counter`.
        costs: Of images.
        rows: Most that are drawn, at the policy's own size.

    Returns:
        By the numbers of the tickets.
    """
    left = sorted(waiting, key=lambda one: one.deadline)
    computes = {one.ticket: costs.left(one) for one in drawn}
    ends, at = dict[int, float](), now
    while computes or left:
        begun = joining([*computes], left, costs, rows=rows)
        left = [one for one in left if one not in begun]
        computes |= {one: one.least for one in begun}
        ticks = min(computes.values())
        at += costs.around_s(costs.rows_of(begun))
        at += costs.together_s(ticks, costs.rows_of([*computes]))
        ends |= {one.number: at for one, count in computes.items() if count == ticks}
        computes = {one: n - ticks for one, n in computes.items() if n > ticks}
    return ends


def lost_by(tickets: Sequence[ImageTicket], now: float, costs: CallCosts) -> set[ImageTicket]:
    """Return those who would be late even if they were drawn alone at once."""
    return {
        one
        for one in tickets
        if now + costs.batch_s(one.least, costs.rows_of([one])) > one.deadline
    }
