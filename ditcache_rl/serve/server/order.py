"""Who is drawn next, and who would be late at best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ditcache_rl.serve.server.costs import CallCosts
from ditcache_rl.serve.server.ticket import ImageTicket


def next_batch(
    tickets: Sequence[ImageTicket], costs: CallCosts, *, rows: int
) -> tuple[list[ImageTicket], list[ImageTicket]]:
    """Part those that the next call draws from the others; all in the order of deadlines.

    Args:
        tickets: Whoever waits, in the order of deadlines.
        costs: Of calls.
        rows: Most of a call, at the policy's own size: of larger images fewer are drawn at a time.
    """
    most = costs.rows_within(tickets[0].size, rows)
    batch = [one for one in tickets if one.goes_with(tickets[0])][:most]
    drawn = {one.number for one in batch}
    return batch, [one for one in tickets if one.number not in drawn]


def late_at_best(
    tickets: Sequence[ImageTicket], at: float, costs: CallCosts, *, rows: int
) -> set[int]:
    """Return the numbers of those who would be late if everybody computed as little as may be.

    Arguments as of `ends_at_best`.
    """
    ends = ends_at_best(tickets, at, costs, rows=rows)
    return {one.number for batch, end in ends for one in batch if one.deadline < end}


def ends_at_best(
    tickets: Sequence[ImageTicket], at: float, costs: CallCosts, *, rows: int
) -> Iterator[tuple[list[ImageTicket], float]]:
    """Foretell calls and their ends if everybody computed as little as may be.

    Args:
        tickets: Whoever waits, in any order.
        at: When the next call begins.
        costs: Of calls.
        rows: Most of a call, at the policy's own size.
    """
    left = sorted(tickets, key=lambda one: one.deadline)
    while left:
        batch, left = next_batch(left, costs, rows=rows)
        at += costs.batch_s(max(one.least for one in batch), costs.rows_of(batch))
        yield batch, at


def lost_by(tickets: Sequence[ImageTicket], now: float, costs: CallCosts) -> set[ImageTicket]:
    """Return those who would be late even if they were drawn alone at once."""
    return {
        one
        for one in tickets
        if now + costs.batch_s(one.least, costs.rows_of([one])) > one.deadline
    }
