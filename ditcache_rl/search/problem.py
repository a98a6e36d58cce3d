"""What is searched, and what a search starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ditcache_rl.bench import Case
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored
from ditcache_rl.schedules.spacing import pay_up
from ditcache_rl.search.proposals import Calibration, proposals
from ditcache_rl.search.space import Space
from ditcache_rl.search.trials import Attempt, Trials
from ditcache_rl.types import Mode

#: Exponents that space the computed steps of the first candidates.
_SPACINGS = (0.7, 0.85, 1.0, 1.2, 1.5)

Propose = Callable[[Calibration, Space, int], list[Schedule]]
"""Names schedules of a number of site computes to start from."""


@dataclass(slots=True)
class Problem:
    """What is searched.

    Attributes:
        trials: Scores candidates, and knows what they may be.
        computes: Numbers of site computes, ascending.
        evaluations: Candidates that may be scored for each, those that a search starts from
            among them; 0 for these alone.
        rng: Draws everything that is drawn.
        calibration: What searches measure instead of guessing; shared between them.
        propose: Names schedules to start from, for the methods that ask; None for nobody.
        start: Schedules to start from in place of spaced ones, where it has any.
        before: A schedule that computes less, for the first number to start from too.
        fit_on: Cases that forecasts are fitted on; those of the trials by default.
        settle_on: Cases that the forecasts of what is found are fitted on; as `fit_on` by default.
        fit_together: Whether all gaps of what is found are corrected together at the end.
        on_found: Hears every schedule that was found, with its score.
    """

    trials: Trials
    computes: Sequence[int]
    evaluations: int
    rng: np.random.Generator
    calibration: Calibration
    propose: Propose | None = proposals
    start: ScheduleTable | None = None
    before: Schedule | None = None
    fit_on: Sequence[Case] = ()
    settle_on: Sequence[Case] = ()
    fit_together: bool = True
    on_found: Callable[[Scored], object] = lambda scored: None

    @property
    def space(self) -> Space:
        """What candidates may be."""
        return self.trials.space

    def first(self, computes: int, before: Schedule | None, *, propose: bool) -> list[Schedule]:
        """List what the search of one number of computes starts from.

        Args:
            computes: Site computes.
            before: The best schedule of the number before; computes are added to it.
            propose: Whether `self.propose` is asked.
        """
        if self.start is not None and computes in self.start:
            first = [Schedule(self.start[computes].schedule.modes)]
        else:
            first = _spaced_in_many_ways(self.space, computes)
        proposed: list[Schedule] = []
        if propose and self.propose is not None:
            proposed = self.propose(self.calibration, self.space, computes)
        grown = [] if before is None else [pay_up(Schedule(before.modes), computes)]
        return [*proposed, *grown, *first]  # where not all may be scored, the likeliest are

    def attempt(self, first: Sequence[Schedule]) -> Attempt:
        """Begin the search of one number of computes, starting from some schedules."""
        return self.trials.attempt(self.evaluations or len(first))

    def table(self, found: Iterable[Scored]) -> ScheduleTable:
        """Return what was found as a table."""
        return ScheduleTable.of(self.trials.board.sigmas(), found)


def _spaced_in_many_ways(space: Space, computes: int) -> list[Schedule]:
    main = Mode.FORECAST1 if Mode.FORECAST1 in space.between else space.between[0]
    powers = [space.spaced(computes, power=power, between=main) for power in _SPACINGS]
    others = [mode for mode in space.between if mode not in (main, Mode.REUSE)]
    return [*powers, *(space.spaced(computes, between=mode) for mode in others)]
