import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import ConfigError
from ditcache_rl.search import (
    METHODS,
    Calibration,
    Found,
    Problem,
    Row,
    Space,
    Trials,
    Weights,
    planned_rows,
    proposals,
)
from ditcache_rl.search.climb import first_rows
from ditcache_rl.search.paths import path_cost
from ditcache_rl.search.space import spaced
from ditcache_rl.types import Mode
from tests.kit.boards import Puzzle, hidden_schedule
from tests.kit.pipelines import GUIDANCE, PROMPTS

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
#: Methods that choose modes of sites; the other one is tested with what it is made of.
MODES = tuple(name for name in METHODS if name != "fitted")
#: Methods that score on final images alone.
BLIND = ("uniform", "climb", "anneal", "nsga2")


@pytest.fixture(scope="module", params=[1, 2], ids=["one site", "two sites"])
def trials(request: pytest.FixtureRequest, tiny_pipe: Any, tiny_call: dict[str, Any]) -> Trials:
    board = Board(tiny_pipe, 5, sites=request.param, call=tiny_call, rows=8)
    return Trials(board, CASES, Weights())


@pytest.fixture(scope="module")
def calibration(trials: Trials) -> Calibration:
    return Calibration(trials.board, CASES)


def searched(
    name: str, trials: Trials, budgets: list[int], evaluations: int = 30, seed: int = 0
) -> Found:
    rng = np.random.default_rng(seed)
    return METHODS[name](
        Problem(trials, budgets, evaluations, rng, Calibration(trials.board, CASES))
    )


@pytest.mark.parametrize("name", MODES)
def test_every_method_spends_exactly_the_budget_and_scores_what_it_returns(
    name: str, trials: Trials, calibration: Calibration
) -> None:
    space = trials.space
    budgets = [2 * space.sites, 2 * space.sites + 1, 4 * space.sites]
    problem = Problem(trials, budgets, 10, np.random.default_rng(0), calibration)

    found = METHODS[name](problem)

    assert list(found) == budgets
    for budget, (row, score, _) in found.items():
        assert space.computes(row) == budget
        assert row[0] == Mode.COMPUTE
        real = trials.board.score(CASES, [space.modes(row)] * len(CASES))
        assert score.psnr_db == pytest.approx(real.psnr_db.mean(), abs=1e-2)
        assert score.ssim == pytest.approx(real.ssim.mean(), abs=1e-4)


@pytest.mark.parametrize("name", ["climb", "anneal", "nsga2"])
@pytest.mark.parametrize("sites", [1, 2])
def test_no_search_loses_to_what_it_starts_from(name: str, sites: int) -> None:
    board = Puzzle(hidden_schedule(8, sites, 3))
    trials = Trials(board, CASES, Weights())
    budgets = [2 * sites, 5 * sites]

    found = searched(name, trials, budgets)

    for budget in budgets:
        first = [board.value(trials.space.modes(row)) for row in first_rows(trials.space, budget)]
        assert found[budget].score.psnr_db >= max(first)


def test_searches_find_more_than_even_spacing_at_equal_evaluations() -> None:
    gains = {name: 0.0 for name in BLIND}
    for seed in range(4):
        board = Puzzle(hidden_schedule(10, 1, seed))
        trials = Trials(board, CASES, Weights())
        for name in BLIND:
            found = searched(name, trials, [3, 5], evaluations=80, seed=seed)
            gains[name] += sum(entry.score.psnr_db for entry in found.values())

    assert min(gains[name] for name in BLIND[1:]) > gains["uniform"] + 4


@pytest.mark.parametrize("name", BLIND)
def test_the_same_seed_finds_the_same(name: str) -> None:
    rows = []
    for _ in range(2):
        board = Puzzle(hidden_schedule(8, 2, 1))
        found = searched(name, Trials(board, CASES, Weights()), [5, 9])
        rows.append(np.array([entry.row for entry in found.values()]))

    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize("name", MODES)
def test_a_search_stays_within_its_space(
    name: str, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    board = Board(tiny_pipe, 5, sites=1, call=tiny_call, rows=8)
    space = Space(5, 1, between=(Mode.FORECAST1,), ends=True)
    trials = Trials(board, CASES, Weights(), space=space)

    found = searched(name, trials, [2, 3], evaluations=4)

    for row, *_ in found.values():
        assert row[0] == row[-1] == Mode.COMPUTE
        assert set(row) == {Mode.COMPUTE, Mode.FORECAST1}


@pytest.mark.parametrize("name", ["climb", "anneal", "nsga2"])
def test_evaluations_are_bounded(name: str) -> None:
    board = Puzzle(hidden_schedule(12, 1, 0), rows=2)

    searched(name, Trials(board, CASES, Weights()), [3, 6], evaluations=40)

    assert len({modes.tobytes() for modes in board.scored}) <= 2 * 40


def test_one_evaluation_is_enough_to_answer(trials: Trials) -> None:
    for name in ("uniform", "climb", "anneal"):
        found = searched(name, trials, [3 * trials.space.sites], evaluations=1)
        row = found[3 * trials.space.sites].row
        mode = Mode.REUSE if name == "uniform" else Mode.FORECAST1
        power = 1.0 if name == "uniform" else 0.7
        expected = spaced(trials.space, 3 * trials.space.sites, power=power, between=mode)
        assert row.tolist() == expected.tolist()


def test_without_pymoo_the_evolution_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymoo", None)
    trials = Trials(Puzzle(hidden_schedule(5, 1, 0)), CASES, Weights())

    with pytest.raises(ConfigError, match="ditcache-rl\\[train\\]"):
        searched("nsga2", trials, [2])


def test_a_polish_is_no_worse_than_what_is_proposed_to_it(trials: Trials) -> None:
    budgets = [2 * trials.space.sites, 4 * trials.space.sites]

    polished, *others = (searched(name, trials, budgets) for name in ("polish", "dp", "table"))

    for budget in budgets:
        value = trials.value(polished[budget][1])
        assert all(value >= trials.value(found[budget][1]) for found in others)


def test_a_planned_schedule_is_the_one_whose_gaps_lack_least(
    trials: Trials, calibration: Calibration
) -> None:
    space = trials.space
    costs = calibration.fitted_gaps()

    (row,) = planned_rows(calibration, space, 3 * space.sites)

    computed = tuple(np.flatnonzero(space.costs[row] == space.sites).tolist())
    every = [(0, *rest) for rest in itertools.combinations(range(1, space.steps), 2)]
    assert computed == min(every, key=lambda path: path_cost(costs, path))
    assert space.computes(row) == 3 * space.sites


@pytest.mark.parametrize("propose", [proposals, planned_rows])
def test_a_pipeline_that_cannot_be_taken_apart_gets_no_proposals(
    propose: Callable[[Calibration, Space, int], list[Row]],
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
) -> None:
    board = Board(tiny_pipe, 4, sites=1, call=tiny_call | GUIDANCE, rows=1)
    trials, said = Trials(board, CASES[:1], Weights()), list[str]()

    rows = propose(Calibration(board, CASES[:1], said.append), trials.space, 2)

    assert rows == []
    assert "without proposals: expected one call" in said[-1]
