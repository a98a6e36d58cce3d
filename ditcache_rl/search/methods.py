"""Every way to search static schedules, by name, with one signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import numpy as np

from ditcache_rl.search.calibrate import (
    CALIBRATED,
    ErrorTable,
    gap_costs,
    measure_errors,
    measure_gaps,
)
from ditcache_rl.search.climb import anneal, climb, first_rows
from ditcache_rl.search.front import evolve
from ditcache_rl.search.paths import Path, cheapest_path, minimax_path, threshold_for
from ditcache_rl.search.space import Row, Space, pay_up, spaced
from ditcache_rl.search.trials import Attempt, Score, Trials
from ditcache_rl.types import Floats, Mode

#: Prompts of a calibration: ten are enough for error tables (DPCache, SmoothCache), and one nearly
#: for gaps (LeMiCa: 24.51 dB with 1, 24.67 dB with 350), each of which takes a run of its own.
_ERROR_CASES, _GAP_CASES = 10, 2
#: How much more than their sum large errors count, as MeanCache tries it.
_POWERS = (1.0, 2.0, 4.0)


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


class Found(dict[int, tuple[Row, Score]]):
    """The best schedule of every budget, and its score on the search prompts."""


@dataclass(slots=True)
class Calibration:
    """Measurements on a board's first cases, made when they are asked for and kept.

    Attributes:
        trials: Their board and cases; the board draws on a pipeline.
        say: Hears what is being measured.
    """

    trials: Trials
    say: Callable[[str], None] = field(default=lambda _: None)
    _errors: ErrorTable | None = None
    _gaps: dict[Mode, Floats] = field(default_factory=dict)

    def errors(self) -> ErrorTable:
        """Return the errors of reuse and forecast."""
        if self._errors is None:
            self.say("measuring the error of every estimate")
            self._errors = measure_errors(self.trials.board, self.trials.cases[:_ERROR_CASES])
        return self._errors

    def gaps(self, between: Mode) -> Floats:
        """Return the final errors of single gaps."""
        if between not in self._gaps:
            self.say(f"measuring every gap: {between.name.lower()}")
            board = self.trials.board
            self._gaps[between] = measure_gaps(
                board, self.trials.cases[:_GAP_CASES], between, longest=board.steps // 2
            )
        return self._gaps[between]


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
    return _one_by_one(problem, partial(_local, problem, climb))


def search_anneal(problem: Problem) -> Found:
    """Anneal from spaced schedules and from the budget before."""
    return _one_by_one(problem, partial(_local, problem, anneal))


def search_dp(problem: Problem) -> Found:
    """Minimise the error of all skipped steps together, by path-aware dynamic programming."""
    errors = problem.calibration.errors().displacement

    def paths(steps: int, last: int | None) -> list[tuple[Path, dict[Mode, Floats]]]:
        return [
            (cheapest_path(gap_costs(table, power=power), steps, last=last), filling)
            for table, filling in _fillings(errors, problem.space)
            for power in _POWERS
        ]

    return _by_paths(problem, paths)


def search_minimax(problem: Problem) -> Found:
    """Minimise the worst gap, judged by what it alone does to the final latents."""
    modes = [mode for mode in problem.space.between if mode in CALIBRATED]

    def paths(steps: int, last: int | None) -> list[tuple[Path, dict[Mode, Floats]]]:
        return [
            (minimax_path(_bounded(problem.calibration.gaps(mode)), steps, last=last), {mode: _ANY})
            for mode in modes
        ]

    return _by_paths(problem, paths)


def search_table(problem: Problem) -> Found:
    """Skip as far as the error of the estimate stays within a threshold that meets the budget."""
    errors = problem.calibration.errors().relative

    def paths(steps: int, last: int | None) -> list[tuple[Path, dict[Mode, Floats]]]:
        return [
            (threshold_for(table, steps, last=last), filling)
            for table, filling in _fillings(errors, problem.space)
        ]

    return _by_paths(problem, paths)


def search_nsga2(problem: Problem) -> Found:
    """Evolve the whole front at once, with the evaluations of all budgets together."""
    space, budgets = problem.space, problem.budgets
    first = [row for budget in budgets for row in first_rows(space, budget)]
    attempt = problem.trials.attempt(max(problem.evaluations * len(budgets), len(first)))
    rows = evolve(attempt, first, space, budgets, problem.rng)
    return Found((budget, (row, attempt.score_of(row))) for budget, row in rows.items())


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "uniform": search_uniform,
        "table": search_table,
        "dp": search_dp,
        "minimax": search_minimax,
        "climb": search_climb,
        "anneal": search_anneal,
        "nsga2": search_nsga2,
    }
)

_ANY = np.zeros((0, 0, 0))
_Search = Callable[[Attempt, int, "Row | None"], Row]


def _one_by_one(problem: Problem, search: _Search) -> Found:
    """Search budget by budget, each knowing what the one before found."""
    found, before = Found(), None
    for budget in problem.budgets:
        attempt = problem.trials.attempt(problem.evaluations)
        before = search(attempt, budget, before)
        found[budget] = before, attempt.score_of(before)
    return found


def _local(
    problem: Problem,
    strategy: Callable[[Attempt, Sequence[Row], Space, np.random.Generator], Row],
    attempt: Attempt,
    budget: int,
    before: Row | None,
) -> Row:
    first = first_rows(problem.space, budget)
    if before is not None:
        first.insert(0, pay_up(before, budget, problem.space.patterns))
    return strategy(attempt, first, problem.space, problem.rng)


def _best_of(attempt: Attempt, rows: Sequence[Row]) -> Row:
    return max(attempt.score(rows), key=attempt.value)


def _by_paths(
    problem: Problem,
    paths: Callable[[int, int | None], list[tuple[Path, dict[Mode, Floats]]]],
) -> Found:
    """Turn paths of whole steps into schedules that spend each budget, and take the best."""
    space = problem.space
    last = space.steps - 1 if space.ends else None

    def search(attempt: Attempt, budget: int, _: Row | None) -> Row:
        rows = []
        for path, filling in paths(budget // space.sites, last):
            row = _filled(path, filling, space.steps)
            rows.append(pay_up(row, budget, space.patterns))
        return _best_of(attempt, rows)

    return _one_by_one(problem, search)


def _fillings(
    errors: Mapping[Mode, Floats], space: Space
) -> list[tuple[Floats, dict[Mode, Floats]]]:
    """List the ways to fill gaps: each mode alone, and at every step the one that errs least."""
    tables = {mode: errors[mode] for mode in CALIBRATED if mode in space.between}
    ways = [(table, {mode: table}) for mode, table in tables.items()]
    if len(tables) > 1:
        ways.append((np.minimum.reduce(list(tables.values())), tables))
    return ways


def _filled(path: Path, filling: Mapping[Mode, Floats], steps: int) -> Row:
    """Fill the steps between the computed ones with the mode that errs least there."""
    modes = list(filling)
    row = np.full(steps, int(modes[0]), dtype=np.int64)
    row[list(path)] = Mode.COMPUTE
    if len(modes) == 1:
        return row
    nodes = (path[0], *path, steps)
    for older, newest, stop in zip(nodes, nodes[1:], nodes[2:], strict=False):
        for step in range(newest + 1, stop):
            errors = [filling[mode][older, newest, step] for mode in modes]
            row[step] = int(modes[int(np.argmin(errors))])
    return row


def _bounded(edges: Floats) -> Floats:
    """Give gaps that were too long to be measured a cost above all others, growing with them."""
    gaps = np.arange(edges.shape[1])[None] - np.arange(len(edges))[:, None]
    worst = edges[np.isfinite(edges)].max()
    return np.where(np.isfinite(edges), edges, worst * (1 + gaps))
