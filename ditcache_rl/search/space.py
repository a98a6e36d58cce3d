"""Which schedules a search may try, and the small changes that lead from one to another.

A row is a schedule as pattern numbers, (steps,); every function here keeps what a row spends, or
says what it spends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules.patterns import pattern_costs, step_patterns
from ditcache_rl.types import Mode, Modes

Row = NDArray[np.int64]

#: Every way to fill a step that computes nothing.
BETWEEN = (Mode.REUSE, Mode.FORECAST1, Mode.FORECAST2)
#: Share of the moves that shift a computed step; the others change what lies between.
_SHIFTS = 0.7
#: Share of the moves that are two at once.
_DOUBLES = 0.35


class Space(NamedTuple):
    """The schedules of a run: the first step is always computed."""

    steps: int
    sites: int
    between: tuple[Mode, ...] = BETWEEN
    """What a step may do that computes nothing."""
    ends: bool = False
    """Whether the last step is always computed too."""

    @property
    def patterns(self) -> Modes:
        """(patterns, sites) modes of every pattern."""
        return step_patterns(self.sites)

    @property
    def costs(self) -> NDArray[np.int64]:
        """(patterns,) sites that each pattern computes."""
        return pattern_costs(self.patterns)

    @property
    def free(self) -> NDArray[np.int64]:
        """Steps that a search may change."""
        return np.arange(1, self.steps - int(self.ends))

    @property
    def least(self) -> int:
        """Site computes of the cheapest schedule."""
        return self.sites * (1 + int(self.ends))

    def computes(self, row: Row) -> int:
        """Return the site computes that a row spends."""
        return int(self.costs[row].sum())

    def modes(self, row: Row) -> Modes:
        """Return a row as (steps, sites) modes."""
        return self.patterns[row]


def spaced(space: Space, budget: int, *, power: float = 1.0, between: Mode) -> Row:
    """Space full computes over the steps; a rest makes a partial pattern.

    Args:
        space: Steps, sites and fixed ends.
        budget: Site computes to spend, at least `space.least`.
        power: Below 1 the computed steps crowd at the end, above 1 at the start.
        between: Mode of the other steps.
    """
    row = np.full(space.steps, int(between), dtype=np.int64)
    whole, rest = divmod(budget, space.sites)
    if space.ends:
        grid, last = np.linspace(0, 1, whole), space.steps - 1
    else:
        # The last computed step lies before the last step: what is computed there is of no use to
        # others.
        grid, last = np.linspace(0, 1, whole + 1)[:-1], space.steps
    places = np.unique(np.round(grid**power * last).astype(int))
    others = np.setdiff1d(np.arange(space.steps), places)
    places = np.concatenate([places, others[: whole - len(places)]])
    row[places] = Mode.COMPUTE
    if rest:
        free = np.flatnonzero(row != Mode.COMPUTE)
        row[free[len(free) // 2]] = cheapest(rest, space.sites)
    return row


def cheapest(computes: int, sites: int) -> int:
    """Return the pattern that computes the first so many sites, at least one."""
    return int(Mode.COMPUTE) if computes == sites else 4 + 2 * (computes - 1)


def pay_up(row: Row, budget: int, patterns: Modes) -> Row:
    """Add computes to a schedule, in the middle of its longest gaps, until it spends the budget."""
    costs, row = pattern_costs(patterns), row.copy()
    sites = patterns.shape[1]
    while (missing := budget - int(costs[row].sum())) > 0:
        dearer = cheapest(min(missing, sites), sites)
        free = np.flatnonzero(costs[row] == 0)
        if not len(free):
            # Every step computes something: complete the partial ones.
            partial = int(np.flatnonzero(costs[row] < sites)[0])
            lacking = min(missing, sites - int(costs[row[partial]]))
            row[partial] = cheapest(int(costs[row[partial]]) + lacking, sites)
            continue
        taken = np.flatnonzero(costs[row] > 0)
        before = free - taken[np.searchsorted(taken, free) - 1]
        after = np.append(taken, len(row))[np.searchsorted(taken, free)] - free
        row[free[np.argmax(np.minimum(before, after))]] = dearer
    return row


def cut_down(row: Row, budget: int, patterns: Modes) -> Row:
    """Take computes from a schedule, where its gaps are shortest, until it spends no more.

    The first step goes on computing, and so does the last one if there is another to take.
    """
    costs, row = pattern_costs(patterns), row.copy()
    while costs[row].sum() > budget:
        computed = np.flatnonzero(costs[row] > 0)
        gaps = np.diff([*computed, len(row)])
        around = gaps[:-1] + gaps[1:]  # what a gap would be without the computed step within it
        if computed[-1] == len(row) - 1 and len(around) > 1:
            around = around[:-1]
        place = computed[1 + int(np.argmin(around))]
        before = row[place - 1]
        row[place] = before if costs[before] == 0 else int(Mode.FORECAST1)
    return row


def move(row: Row, space: Space, rng: np.random.Generator, *, times: int | None = None) -> Row:
    """Change a schedule a little without changing what it spends.

    Args:
        row: The schedule.
        space: What it may become.
        rng: Draws the change.
        times: Changes to make; one or, less often, two by default.
    """
    row = row.copy()
    for _ in range(times or 1 + int(rng.random() < _DOUBLES)):
        kind = rng.random()
        if len(space.between) == 1 or kind < _SHIFTS:
            if space.sites > 1 and rng.random() < 0.3:
                _trade(row, space, rng)
            else:
                _shift(row, space, rng)
        else:
            _refill(row, space, rng)
    return row


def _shift(row: Row, space: Space, rng: np.random.Generator) -> None:
    """Swap a computed step with one near it."""
    free = space.free
    paid = free[space.costs[row[free]] > 0]
    if len(paid):
        place = int(rng.choice(paid))
        other = place + int(rng.choice([-3, -2, -1, 1, 2, 3]))
        other = int(np.clip(other, free[0], free[-1]))
        row[[place, other]] = row[[other, place]]


def _refill(row: Row, space: Space, rng: np.random.Generator) -> None:
    """Give up to four steps that compute nothing another mode."""
    idle = np.flatnonzero(space.costs[row] == 0)
    if len(idle):
        begin, length = int(rng.choice(idle)), int(rng.integers(1, 5))
        row[idle[(idle >= begin) & (idle < begin + length)]] = int(rng.choice(space.between))


def _trade(row: Row, space: Space, rng: np.random.Generator) -> None:
    """Compute one site less at one step and one more at another."""
    free, costs = space.free, space.costs
    givers = free[costs[row[free]] > 0]
    takers = free[costs[row[free]] < space.sites]
    if not len(givers) or not len(takers):
        return
    giver, taker = int(rng.choice(givers)), int(rng.choice(takers))
    if giver == taker:
        return
    for place, change in ((giver, -1), (taker, 1)):
        wanted = int(costs[row[place]]) + change
        fitting = np.flatnonzero(costs == wanted) if wanted else np.array(space.between)
        row[place] = int(rng.choice(fitting))
