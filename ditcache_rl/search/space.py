"""Which schedules a search may try, and the small changes that lead from one to another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules import Schedule, spaced
from ditcache_rl.schedules.patterns import pattern_costs, pattern_numbers, step_patterns
from ditcache_rl.types import Mode, Modes

#: A schedule as the numbers of its step patterns, (steps,): what searches change.
Numbers = NDArray[np.int64]

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

    def schedule(self, numbers: Numbers) -> Schedule:
        """Return the schedule whose steps have these patterns."""
        return Schedule(self.patterns[numbers])

    def numbers(self, schedule: Schedule) -> Numbers:
        """Invert `schedule`."""
        return pattern_numbers(schedule.modes, self.patterns)

    def spaced(self, computes: int, *, between: Mode, power: float = 1.0) -> Schedule:
        """Space full computes evenly; arguments are those of `schedules.spaced`."""
        return spaced(
            self.steps, self.sites, computes, between=between, power=power, ends=self.ends
        )


def move(
    schedule: Schedule, space: Space, rng: np.random.Generator, *, times: int | None = None
) -> Schedule:
    """Change a schedule a little without changing how much it computes.

    Args:
        schedule: What is changed.
        space: What it may become.
        rng: Draws the change.
        times: Changes to make; one or, less often, two by default.
    """
    numbers = space.numbers(schedule)
    for _ in range(times or 1 + int(rng.random() < _DOUBLES)):
        kind = rng.random()
        if len(space.between) == 1 or kind < _SHIFTS:
            if space.sites > 1 and rng.random() < 0.3:
                _trade(numbers, space, rng)
            else:
                _shift(numbers, space, rng)
        else:
            _refill(numbers, space, rng)
    return space.schedule(numbers)


def _shift(numbers: Numbers, space: Space, rng: np.random.Generator) -> None:
    """Swap a computed step with one near it."""
    free = space.free
    paid = free[space.costs[numbers[free]] > 0]
    if len(paid):
        place = int(rng.choice(paid))
        other = place + int(rng.choice([-3, -2, -1, 1, 2, 3]))
        other = int(np.clip(other, free[0], free[-1]))
        numbers[[place, other]] = numbers[[other, place]]


def _refill(numbers: Numbers, space: Space, rng: np.random.Generator) -> None:
    """Give up to four steps that compute nothing another mode."""
    idle = np.flatnonzero(space.costs[numbers] == 0)
    if len(idle):
        begin, length = int(rng.choice(idle)), int(rng.integers(1, 5))
        numbers[idle[(idle >= begin) & (idle < begin + length)]] = int(rng.choice(space.between))


def _trade(numbers: Numbers, space: Space, rng: np.random.Generator) -> None:
    """Compute one site less at one step and one more at another."""
    free, costs = space.free, space.costs
    givers = free[costs[numbers[free]] > 0]
    takers = free[costs[numbers[free]] < space.sites]
    if not len(givers) or not len(takers):
        return
    giver, taker = int(rng.choice(givers)), int(rng.choice(takers))
    if giver == taker:
        return
    for place, change in ((giver, -1), (taker, 1)):
        wanted = int(costs[numbers[place]]) + change
        fitting = np.flatnonzero(costs == wanted) if wanted else np.array(space.between)
        numbers[place] = int(rng.choice(fitting))
