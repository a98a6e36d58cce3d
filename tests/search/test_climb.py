from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ditcache_rl.bench import Case
from ditcache_rl.schedules.patterns import pattern_costs, step_patterns
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search import ClimbSettings, Space, Trials, Weights, search_plan, spaced_plan
from ditcache_rl.search.climb import anneal, climb, first_rows
from ditcache_rl.types import Mode
from tests.kit.boards import Puzzle, hidden_schedule

CASES = [Case("a", 1), Case("b", 2)]
SETTINGS = ClimbSettings(evaluations=12, psnr_weight=1.0, ssim_weight=1.0)


def computes(rows: NDArray[np.int64], sites: int) -> NDArray[np.int64]:
    """Count what schedules (rows, steps) of patterns compute: (rows,)."""
    return np.asarray(pattern_costs(step_patterns(sites))[rows].sum(axis=1))


def searched(
    board: Puzzle, budgets: list[int], *, seed: int = 0, start: Plan | None = None
) -> Plan:
    rng = np.random.default_rng(seed)
    return search_plan(board, CASES, budgets=budgets, settings=SETTINGS, rng=rng, start=start)


def values(board: Puzzle, plan: Plan, budgets: list[int]) -> list[float]:
    patterns = step_patterns(board.sites)
    return [board.value(patterns[plan.patterns[budget]]) for budget in budgets]


@pytest.mark.parametrize("sites", [1, 2, 3])
@pytest.mark.parametrize("steps", [3, 4, 7, 28])
def test_spaced_schedules_spend_every_budget_exactly(steps: int, sites: int) -> None:
    plan = spaced_plan(steps, sites)

    assert plan.patterns.shape == (steps * sites + 1, steps)
    assert (plan.patterns[:sites] == -1).all()
    spending = plan.patterns[sites:]
    np.testing.assert_array_equal(computes(spending, sites), np.arange(sites, steps * sites + 1))
    assert (spending[:, 0] == Mode.COMPUTE).all()
    assert np.isnan(plan.quality).all()
    assert plan.least == sites


def test_spaced_schedules_are_evenly_spaced() -> None:
    plan = spaced_plan(8, 1)

    computed = [np.flatnonzero(row == Mode.COMPUTE).tolist() for row in plan.patterns]
    assert computed[1] == [0]
    assert computed[2] == [0, 4]
    assert computed[4] == [0, 2, 4, 6]
    assert computed[8] == list(range(8))
    assert set(plan.patterns[2][[1, 2, 3, 5, 6, 7]]) == {Mode.FORECAST1}


@pytest.mark.parametrize("sites", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_budget_is_spent_exactly(sites: int, seed: int) -> None:
    board = Puzzle(hidden_schedule(6, sites, seed))
    budgets = list(range(sites, 6 * sites + 1))

    plan = searched(board, budgets, seed=seed)

    np.testing.assert_array_equal(computes(plan.patterns[budgets], sites), budgets)
    assert (plan.patterns[budgets, 0] == Mode.COMPUTE).all()
    np.testing.assert_array_equal(plan.quality[budgets, 0], values(board, plan, budgets))
    # Nothing else was even tried: whatever is scored spends one of the budgets.
    spent = [int((modes == Mode.COMPUTE).sum()) for modes in board.scored]
    assert set(spent) == set(budgets)
    assert not any(modes[0].any() for modes in board.scored)


def test_budgets_that_were_not_asked_for_stay_empty() -> None:
    plan = searched(Puzzle(hidden_schedule(6, 1, 0)), [4, 2])

    assert np.flatnonzero(plan.patterns[:, 0] >= 0).tolist() == [2, 4]
    assert np.flatnonzero(np.isfinite(plan.quality[:, 0])).tolist() == [2, 4]


@pytest.mark.parametrize("seed", range(3))
def test_the_result_is_the_best_of_all_that_was_tried(seed: int) -> None:
    board = Puzzle(hidden_schedule(10, 1, seed))

    plan = searched(board, [4])

    assert values(board, plan, [4]) == [max(board.value(modes) for modes in board.scored)]
    spaced = step_patterns(1)[spaced_plan(10, 1).patterns[4]]
    assert values(board, plan, [4])[0] >= board.value(spaced)


def test_a_start_is_never_made_worse() -> None:
    board = Puzzle(hidden_schedule(10, 1, 3))
    budgets = [int((board.hidden == Mode.COMPUTE).sum())]
    best = Plan.empty(10, 10)
    best.patterns[budgets[0]] = board.hidden[:, 0]

    plan = searched(board, budgets, start=best)

    assert values(board, plan, budgets) == [60.0]
    np.testing.assert_array_equal(plan.patterns[budgets[0]], board.hidden[:, 0])


def test_climbing_improves_on_what_it_starts_from() -> None:
    gains = []
    for seed in range(5):
        board = Puzzle(hidden_schedule(10, 1, seed))
        plan = searched(board, [5], seed=seed)
        first = board.scored[: 6 * len(CASES)]  # the spaced candidates
        gains.append(values(board, plan, [5])[0] - max(board.value(m) for m in first))

    assert min(gains) >= 0
    assert np.mean(gains) > 0.5


def test_the_same_seed_searches_the_same_way() -> None:
    runs = []
    for seed in (0, 0, 1):
        board = Puzzle(hidden_schedule(10, 2, 7))
        runs.append((searched(board, [6, 9, 14], seed=seed), board.scored))

    (plan, scored), (again, scored_again), (_, scored_other) = runs
    np.testing.assert_array_equal(plan.patterns, again.patterns)
    np.testing.assert_array_equal(scored, scored_again)
    assert not np.array_equal(scored, scored_other)


def test_every_budget_is_reported_when_it_is_done() -> None:
    board, heard = Puzzle(hidden_schedule(6, 1, 0)), []

    plan = search_plan(
        board,
        CASES,
        budgets=[3, 2],
        settings=SETTINGS,
        rng=np.random.default_rng(0),
        on_budget=lambda budget, psnr: heard.append((budget, psnr)),
    )

    assert heard == [(2, plan.quality[2, 0]), (3, plan.quality[3, 0])]


def test_evaluations_are_bounded() -> None:
    board = Puzzle(hidden_schedule(28, 1, 0), rows=2)

    searched(board, [8])

    tried = {modes.tobytes() for modes in board.scored}
    assert len(tried) <= SETTINGS.evaluations + 7


@pytest.mark.parametrize("strategy", [climb, anneal])
def test_a_search_spends_its_evaluations_and_ends_at_the_best_that_it_saw(strategy: Any) -> None:
    board = Puzzle(hidden_schedule(12, 1, 0))
    trials = Trials(board, CASES, Weights())
    attempt, first = trials.attempt(150), first_rows(trials.space, 5)

    best = strategy(attempt, first, trials.space, np.random.default_rng(0))

    assert (attempt.left, attempt.spent) == (0, 150)
    assert board.value(trials.space.modes(best)) == max(map(board.value, board.scored))


@pytest.mark.parametrize("strategy", [climb, anneal])
def test_a_search_ends_when_everything_is_known(strategy: Any) -> None:
    board = Puzzle(hidden_schedule(4, 1, 0))
    trials = Trials(board, CASES, Weights(), space=Space(4, 1, between=(Mode.REUSE,)))
    attempt = trials.attempt(1000)

    strategy(attempt, first_rows(trials.space, 2), trials.space, np.random.default_rng(0))

    assert attempt.spent == 3
