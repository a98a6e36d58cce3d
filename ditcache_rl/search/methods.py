"""Every way to search static schedules, by name, with one signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np

from ditcache_rl.errors import StateError
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored
from ditcache_rl.schedules.placement import path_cost
from ditcache_rl.search.climb import anneal, climb, climb_paths
from ditcache_rl.search.front import evolve
from ditcache_rl.search.problem import Problem, Propose
from ditcache_rl.search.proposals import dp_proposals, minimax_proposals, threshold_proposals
from ditcache_rl.search.space import Space
from ditcache_rl.search.trials import Attempt

#: Paths that a search of fitted schedules starts from, at most.
STARTS = 4

Search = Callable[[Problem], ScheduleTable]
"""Finds a schedule for every number of computes of a problem, each computing exactly that."""


def search_uniform(problem: Problem) -> ScheduleTable:
    """Space the computed steps evenly, and take the best way to fill what lies between."""
    space = problem.space
    return _one_by_one(
        problem,
        lambda computes, before: _best_of(
            problem, [space.spaced(computes, between=mode) for mode in space.between]
        ),
    )


def search_climb(problem: Problem) -> ScheduleTable:
    """Climb from spaced schedules and from the one before with another compute."""
    return _one_by_one(problem, partial(_local, problem, climb, propose=False))


def search_anneal(problem: Problem) -> ScheduleTable:
    """Anneal from spaced schedules and from the one before with another compute."""
    return _one_by_one(problem, partial(_local, problem, anneal, propose=False))


def search_dp(problem: Problem) -> ScheduleTable:
    """Minimise the error of all estimated steps together, by path-aware dynamic programming."""
    return _one_by_one(problem, partial(_best_proposal, problem, dp_proposals))


def search_minimax(problem: Problem) -> ScheduleTable:
    """Minimise the worst gap, judged by what it alone does to the final latents."""
    return _one_by_one(problem, partial(_best_proposal, problem, minimax_proposals))


def search_table(problem: Problem) -> ScheduleTable:
    """Estimate as long as the error stays within a threshold that meets the number of computes."""
    return _one_by_one(problem, partial(_best_proposal, problem, threshold_proposals))


def search_polish(problem: Problem) -> ScheduleTable:
    """Climb from what dynamic program and error table propose, besides the starts of a climb."""
    return _one_by_one(problem, partial(_local, problem, climb, propose=True))


def search_nsga2(problem: Problem) -> ScheduleTable:
    """Evolve the whole front at once, with the evaluations of all numbers of computes together."""
    computes = problem.computes
    first = [one for count in computes for one in problem.first(count, None, propose=False)]
    attempt = problem.trials.attempt(max(problem.evaluations * len(computes), len(first)))
    best = evolve(attempt, first, problem.space, computes, problem.rng)
    found = [attempt.scored(schedule) for schedule in best]
    for scored in found:
        problem.on_found(scored)
    return problem.table(found)


def search_fitted(problem: Problem) -> ScheduleTable:
    """Climb over which steps compute, with forecasts fitted to each schedule.

    Candidates are scored by the latents of the cases that are fitted on, and what is found by the
    images of the trials. Of many starts those are tried whose gaps lack the least, each alone; they
    count as candidates. Without evaluations images tell which start is the best.

    Raises:
        StateError: If the problem's calibration draws on another board than its trials.
        UnsupportedModelError: If the denoiser is not cached as one site, or its loop can't be
            taken apart.
    """
    trials = problem.trials
    board = problem.calibration.board
    if trials.board is not board:
        raise StateError(
            f"expected a calibration on the board of the trials, received a {type(board).__name__} "
            f"of {board.steps} steps beside a {type(trials.board).__name__} of "
            f"{trials.board.steps}; make both on one board"
        )
    cases, calibration = problem.fit_on or trials.cases, problem.calibration
    whole = calibration.fitter(cases)
    settled = calibration.fitter(problem.settle_on) if problem.settle_on else whole
    # The cases are recorded: their residuals need not be drawn once more.
    calibration = calibration.resting_on(whole.products())
    problem, costs = replace(problem, calibration=calibration), calibration.fitted_gaps()
    found, before = [], problem.before
    for computes in problem.computes:
        first = problem.first(computes, before, propose=True)
        paths = dict.fromkeys(one.path for one in first)
        starts = sorted(paths, key=partial(path_cost, costs))[:STARTS]
        if problem.evaluations:
            starts = [
                climb_paths(
                    whole.errors,
                    starts,
                    problem.space.steps,
                    evaluations=problem.evaluations,
                    rng=problem.rng,
                    width=board.hands,
                )
            ]
        tried = [trials.scored(settled.fit(path, together=problem.fit_together)) for path in starts]
        found.append(max(tried, key=lambda one: trials.objective.quality(one.psnr_db, one.ssim)))
        before = found[-1].schedule
        problem.on_found(found[-1])
    return problem.table(found)


METHODS: Mapping[str, Search] = MappingProxyType(
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

_Step = Callable[[int, Schedule | None], Scored]


def _one_by_one(problem: Problem, search: _Step) -> ScheduleTable:
    """Search one number of computes after the other, each knowing what the one before found."""
    found, before = [], problem.before
    for computes in problem.computes:
        found.append(search(computes, before))
        before = found[-1].schedule
        problem.on_found(found[-1])
    return problem.table(found)


def _local(
    problem: Problem,
    climbs: Callable[[Attempt, Sequence[Schedule], Space, np.random.Generator], Schedule],
    computes: int,
    before: Schedule | None,
    *,
    propose: bool,
) -> Scored:
    first = problem.first(computes, before, propose=propose)
    attempt = problem.attempt(first)
    return attempt.scored(climbs(attempt, first, problem.space, problem.rng))


def _best_proposal(
    problem: Problem, propose: Propose, computes: int, before: Schedule | None
) -> Scored:
    return _best_of(problem, propose(problem.calibration, problem.space, computes))


def _best_of(problem: Problem, schedules: Sequence[Schedule]) -> Scored:
    attempt = problem.attempt(schedules)
    return attempt.scored(max(attempt.score(schedules), key=attempt.value))
