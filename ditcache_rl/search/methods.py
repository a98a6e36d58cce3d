"""Every way to search static schedules, by name, with one signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search.climb import anneal, climb, first_rows
from ditcache_rl.search.fit import Rollouts, search_fitted_plan
from ditcache_rl.search.front import evolve
from ditcache_rl.search.proposals import Calibration, dp_rows, minimax_rows, proposals, table_rows
from ditcache_rl.search.space import Row, Space, pay_up, spaced
from ditcache_rl.search.trials import Attempt, Score, Trials
from ditcache_rl.types import Floats


@dataclass(slots=True)
class Problem:
    """What is searched.

    Attributes:
        trials: Scores candidates, and knows what they may be.
        budgets: Site computes, ascending.
        evaluations: Candidates that each budget may score.
        rng: Draws everything that is drawn.
        calibration: What searches measure instead of guessing; shared between them.
    """

    trials: Trials
    budgets: Sequence[int]
    evaluations: int
    rng: np.random.Generator
    calibration: Calibration

    @property
    def space(self) -> Space:
        """What candidates may be."""
        return self.trials.space


class Entry(NamedTuple):
    """A schedule that was found."""

    row: Row
    score: Score
    """On the search prompts."""
    weights: Floats | None = None
    """(steps, HISTORY) fitted weights of its estimates, nan where there are none."""


class Found(dict[int, Entry]):
    """The best schedule of every budget."""


Method = Callable[[Problem], Found]
"""Finds a schedule for every budget of a problem, each spending exactly that."""


def search_uniform(problem: Problem) -> Found:
    """Space the computed steps evenly, and take the best way to fill what lies between."""
    space = problem.space
    return _one_by_one(
        problem,
        lambda attempt, budget, _: _best_of(
            attempt, [spaced(space, budget, between=mode) for mode in space.between]
        ),
    )


def search_climb(problem: Problem) -> Found:
    """Climb from spaced schedules and from the budget before."""
    return _one_by_one(problem, partial(_local, problem, climb, None))


def search_anneal(problem: Problem) -> Found:
    """Anneal from spaced schedules and from the budget before."""
    return _one_by_one(problem, partial(_local, problem, anneal, None))


def search_dp(problem: Problem) -> Found:
    """Minimise the error of all skipped steps together, by path-aware dynamic programming."""
    return _one_by_one(problem, partial(_best_proposal, problem, dp_rows))


def search_minimax(problem: Problem) -> Found:
    """Minimise the worst gap, judged by what it alone does to the final latents."""
    return _one_by_one(problem, partial(_best_proposal, problem, minimax_rows))


def search_table(problem: Problem) -> Found:
    """Skip as far as the error of the estimate stays within a threshold that meets the budget."""
    return _one_by_one(problem, partial(_best_proposal, problem, table_rows))


def search_polish(problem: Problem) -> Found:
    """Climb from what dynamic program and error table propose, besides the starts of a climb."""
    return _one_by_one(problem, partial(_local, problem, climb, proposals))


def search_nsga2(problem: Problem) -> Found:
    """Evolve the whole front at once, with the evaluations of all budgets together."""
    space, budgets = problem.space, problem.budgets
    first = [row for budget in budgets for row in first_rows(space, budget)]
    attempt = problem.trials.attempt(max(problem.evaluations * len(budgets), len(first)))
    rows = evolve(attempt, first, space, budgets, problem.rng)
    return Found((budget, Entry(row, attempt.score_of(row))) for budget, row in rows.items())


def search_fitted(problem: Problem) -> Found:
    """Climb over which steps compute, with forecasts whose weights are fitted to each schedule."""
    trials = problem.trials
    plan = search_fitted_plan(
        Rollouts(trials.board, trials.cases),
        trials.cases,
        budgets=problem.budgets,
        evaluations=problem.evaluations,
        rng=problem.rng,
        propose=partial(proposals, problem.calibration),
    )
    return found_in(plan, problem.budgets)


def found_in(plan: Plan, budgets: Sequence[int]) -> Found:
    """Take the schedules of some budgets out of a plan that was fitted."""
    return Found(
        (budget, Entry(plan.patterns[budget], Score(*plan.quality[budget]), plan.weights[budget]))
        for budget in budgets
    )


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "uniform": search_uniform,
        "table": search_table,
        "dp": search_dp,
        "minimax": search_minimax,
        "climb": search_climb,
        "anneal": search_anneal,
        "nsga2": search_nsga2,
        "polish": search_polish,
        "fitted": search_fitted,
    }
)

_Propose = Callable[[Calibration, Space, int], list[Row]]
_Search = Callable[[Attempt, int, "Row | None"], Row]


def _one_by_one(problem: Problem, search: _Search) -> Found:
    """Search budget by budget, each knowing what the one before found."""
    found, before = Found(), None
    for budget in problem.budgets:
        attempt = problem.trials.attempt(problem.evaluations)
        before = search(attempt, budget, before)
        found[budget] = Entry(before, attempt.score_of(before))
    return found


def _local(
    problem: Problem,
    strategy: Callable[[Attempt, Sequence[Row], Space, np.random.Generator], Row],
    propose: _Propose | None,
    attempt: Attempt,
    budget: int,
    before: Row | None,
) -> Row:
    space = problem.space
    first = propose(problem.calibration, space, budget) if propose else []
    if before is not None:
        first.append(pay_up(before, budget, space.patterns))
    return strategy(attempt, [*first, *first_rows(space, budget)], space, problem.rng)


def _best_proposal(
    problem: Problem, propose: _Propose, attempt: Attempt, budget: int, _: Row | None
) -> Row:
    return _best_of(attempt, propose(problem.calibration, problem.space, budget))


def _best_of(attempt: Attempt, rows: Sequence[Row]) -> Row:
    return max(attempt.score(rows), key=attempt.value)
