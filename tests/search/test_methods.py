import copy
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import ConfigError, StateError, UnsupportedModelError
from ditcache_rl.schedules import ComputePath, Objective, Schedule, ScheduleTable, Scored
from ditcache_rl.schedules.placement import path_cost
from ditcache_rl.search import METHODS, Calibration, GapFitter, Problem, Space, Trials
from ditcache_rl.search.methods import STARTS
from ditcache_rl.types import Mode
from tests.kit.boards import Puzzle, hidden_schedule, puzzle_problem
from tests.kit.pipelines import PROMPTS

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
#: Methods that choose modes of sites; the other one fits coefficients too.
MODES = tuple(name for name in METHODS if name != "fitted")
#: Methods that score on final images alone.
BLIND = ("uniform", "climb", "anneal", "nsga2")


@pytest.fixture(scope="module", params=[1, 2], ids=["one site", "two sites"])
def board(request: pytest.FixtureRequest, tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, 5, sites=request.param, call=tiny_call, rows=8)


@pytest.fixture(scope="module")
def trials(board: Board) -> Trials:
    return Trials(board, CASES, Objective())


@pytest.fixture(scope="module")
def calibration(board: Board) -> Calibration:
    return Calibration(board, CASES)


def quality(scored: Scored) -> float:
    return Objective().quality(scored.psnr_db, scored.ssim)


@pytest.mark.parametrize("name", MODES)
def test_every_method_computes_exactly_what_is_asked_for_and_scores_what_it_returns(
    name: str, board: Board, trials: Trials, calibration: Calibration
) -> None:
    computes = [2 * board.sites, 2 * board.sites + 1, 4 * board.sites]
    heard: list[Scored] = []
    rng = np.random.default_rng(0)
    problem = Problem(trials, computes, 10, rng, calibration, on_found=heard.append)

    table = METHODS[name](problem)

    assert list(table) == computes
    np.testing.assert_array_equal(table.sigmas, board.sigmas())
    for count, one in table.items():
        schedule = one.schedule
        assert schedule.computes == count
        assert not schedule.modes[0].any()
        real = board.score(CASES, [schedule] * len(CASES))
        assert one.psnr_db == pytest.approx(real.psnr_db.mean(), abs=1e-2)
        assert one.ssim == pytest.approx(real.ssim.mean(), abs=1e-4)
        assert np.isnan([one.floor_psnr_db, one.floor_ssim]).all()
        assert (one.reached, one.expectation) == (None, None)
    assert [one.schedule for one in heard] == [one.schedule for one in table.values()]


@pytest.mark.parametrize("name", ["climb", "anneal", "nsga2"])
@pytest.mark.parametrize("sites", [1, 2])
def test_no_search_loses_to_what_it_starts_from(name: str, sites: int) -> None:
    puzzle = Puzzle(hidden_schedule(8, sites, 3))
    problem = puzzle_problem(puzzle, [2 * sites, 5 * sites], 30)

    table = METHODS[name](problem)

    for computes, found in table.items():
        first = problem.first(computes, None, propose=False)
        assert found.psnr_db >= max(map(puzzle.value, first))


def test_searches_find_more_than_even_spacing_at_equal_evaluations() -> None:
    gains = {name: 0.0 for name in BLIND}
    for seed in range(4):
        puzzle = Puzzle(hidden_schedule(10, 1, seed))
        for name in BLIND:
            table = METHODS[name](puzzle_problem(puzzle, [3, 5], 80, seed=seed))
            gains[name] += sum(found.psnr_db for found in table.values())

    assert min(gains[name] for name in BLIND[1:]) > gains["uniform"] + 4


@pytest.mark.parametrize("name", BLIND)
def test_the_same_seed_finds_the_same(name: str) -> None:
    first, again = (
        METHODS[name](puzzle_problem(Puzzle(hidden_schedule(8, 2, 1)), [5, 9], 30))
        for _ in range(2)
    )

    assert [one.schedule for one in first.values()] == [one.schedule for one in again.values()]


@pytest.mark.parametrize("name", MODES)
def test_a_search_stays_within_its_space(
    name: str, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    board = Board(tiny_pipe, 5, sites=1, call=tiny_call, rows=8)
    space = Space(5, 1, between=(Mode.FORECAST1,), ends=True)
    trials = Trials(board, CASES, Objective(), space=space)

    table = METHODS[name](
        Problem(trials, [2, 3], 4, np.random.default_rng(0), Calibration(board, CASES))
    )

    for schedule, *_ in table.values():
        assert not schedule.modes[[0, -1]].any()
        assert set(schedule.modes.ravel().tolist()) == {Mode.COMPUTE, Mode.FORECAST1}


@pytest.mark.parametrize("name", MODES)
def test_without_evaluations_the_starts_alone_are_scored(
    name: str, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    board = Board(tiny_pipe, 5, sites=1, call=tiny_call, rows=8)
    trials = Trials(board, CASES, Objective())
    rng = np.random.default_rng(0)

    table = METHODS[name](Problem(trials, [2, 3], 0, rng, Calibration(board, CASES)))

    assert list(table) == [2, 3]


@pytest.mark.parametrize("name", ["climb", "anneal", "nsga2"])
def test_evaluations_are_bounded(name: str) -> None:
    puzzle = Puzzle(hidden_schedule(12, 1, 0), rows=2)

    METHODS[name](puzzle_problem(puzzle, [3, 6], 40))

    assert len(set(puzzle.asked)) <= 2 * 40


@pytest.mark.parametrize("sites", [1, 2])
def test_one_evaluation_is_enough_to_answer(sites: int) -> None:
    for name in ("uniform", "climb", "anneal"):
        problem = puzzle_problem(Puzzle(hidden_schedule(5, sites, 0)), [3 * sites], 1)

        table = METHODS[name](problem)

        mode = Mode.REUSE if name == "uniform" else Mode.FORECAST1
        power = 1.0 if name == "uniform" else 0.7
        expected = problem.space.spaced(3 * sites, power=power, between=mode)
        assert table[3 * sites].schedule == expected


@pytest.mark.parametrize("name", ["climb", "anneal", "nsga2"])
def test_without_evaluations_the_best_start_is_the_answer(name: str) -> None:
    puzzle = Puzzle(hidden_schedule(9, 1, 0))
    problem = puzzle_problem(puzzle, [4], 0)
    first = problem.first(4, None, propose=False)

    table = METHODS[name](problem)

    assert table[4].psnr_db == max(map(puzzle.value, first))
    assert set(puzzle.asked) == set(first)


def test_without_pymoo_the_evolution_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymoo", None)

    with pytest.raises(ConfigError, match="ditcache-rl\\[train\\]"):
        METHODS["nsga2"](puzzle_problem(Puzzle(hidden_schedule(5, 1, 0)), [2], 30))


def test_a_polish_is_no_worse_than_what_is_proposed_to_it(
    board: Board, trials: Trials, calibration: Calibration
) -> None:
    computes = [2 * board.sites, 4 * board.sites]

    polished, *others = (
        METHODS[name](Problem(trials, computes, 30, np.random.default_rng(0), calibration))
        for name in ("polish", "dp", "table")
    )

    for count in computes:
        assert all(quality(polished[count]) >= quality(found[count]) for found in others)


@pytest.fixture(scope="module")
def whole(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    """A board whose denoiser is cached as a whole."""
    return Board(tiny_pipe, 5, sites=1, call=tiny_call, rows=8, blocks="transformer")


def fitted(whole: Board, computes: list[int], evaluations: int, **options: Any) -> ScheduleTable:
    trials, calibration = Trials(whole, CASES, Objective()), Calibration(whole, CASES)
    rng = np.random.default_rng(0)
    return METHODS["fitted"](Problem(trials, computes, evaluations, rng, calibration, **options))


def test_a_fitted_search_gives_every_number_its_schedule_and_score(whole: Board) -> None:
    heard: list[Scored] = []

    table = fitted(whole, [2, 3], 8, on_found=heard.append)

    assert list(table) == [2, 3]
    for computes, (schedule, psnr_db, *_) in table.items():
        assert schedule.computes == computes
        assert not schedule.modes[0].any()
        assert schedule == GapFitter(whole, CASES).fit(schedule.path)
        real = whole.score(CASES, [schedule] * len(CASES))
        assert psnr_db == pytest.approx(real.psnr_db.mean(), abs=1e-2)
    assert heard == list(table.values())


def test_a_fitted_search_fits_and_settles_on_the_cases_that_it_is_told(whole: Board) -> None:
    only = ScheduleTable.of(whole.sigmas(), [Schedule.from_text("C1C11")])
    one, other = CASES[:1], CASES[1:]

    alike, settled, apart = (
        fitted(whole, [2], 0, start=only, propose=None, **options)[2].schedule
        for options in (
            {"fit_on": one},
            {"fit_on": one, "settle_on": other},
            {"fit_on": one, "fit_together": False},
        )
    )

    path = (0, 2)
    assert alike == GapFitter(whole, one).fit(path)
    assert settled == GapFitter(whole, other).fit(path)
    assert apart == GapFitter(whole, one).fit(path, together=False)
    assert len({alike, settled, apart}) == 3


def test_of_many_starts_those_are_tried_whose_gaps_lack_the_least(whole: Board) -> None:
    asked: list[ComputePath] = []

    class Noting(GapFitter):
        def errors(self, paths: Sequence[ComputePath]) -> list[float]:
            asked.extend(paths)
            return super().errors(paths)

    calibration, fitter = Calibration(whole, CASES), Noting(whole, CASES)
    calibration._fitters[tuple(CASES)] = fitter
    costs = calibration.resting_on(fitter.products()).fitted_gaps()
    starts = [(0, a, b) for a, b in itertools.combinations(range(1, 5), 2)]

    METHODS["fitted"](
        Problem(
            Trials(whole, CASES, Objective()),
            [3],
            STARTS,
            np.random.default_rng(0),
            calibration,
            propose=lambda *_: [Schedule.on_path(path, 5) for path in starts],
        )
    )

    assert len(starts) > STARTS
    assert asked == sorted(starts, key=lambda path: path_cost(costs, path))[:STARTS]


def test_without_evaluations_images_tell_which_fitted_start_is_the_best(whole: Board) -> None:
    starts = [(0, 1), (0, 2), (0, 4)]
    only = ScheduleTable.of(whole.sigmas(), [Schedule.on_path(starts[0], 5)])
    named = [Schedule.on_path(path, 5) for path in starts[1:]]

    table = fitted(whole, [2], 0, start=only, propose=lambda *_: named)

    trials, fitter = Trials(whole, CASES, Objective()), GapFitter(whole, CASES)
    tried = [trials.scored(fitter.fit(path)) for path in starts]
    assert len({one.psnr_db for one in tried}) == len(starts)
    assert table[2].schedule == max(tried, key=quality).schedule


def test_a_fitted_search_takes_the_path_with_the_least_error(whole: Board) -> None:
    table = fitted(whole, [2], 100)

    fitter = GapFitter(whole, CASES)
    errors = {path: fitter.error(path) for path in [(0, 1), (0, 2), (0, 3), (0, 4)]}
    assert table[2].schedule.path == min(errors, key=errors.__getitem__)


def test_what_is_fitted_on_one_board_and_scored_on_another_is_refused(whole: Board) -> None:
    puzzle = Puzzle(hidden_schedule(5, 1, 0))
    rng = np.random.default_rng(0)

    for scorer in (puzzle, copy.copy(whole)):
        trials = Trials(scorer, CASES, Objective())
        problem = Problem(trials, [2], 4, rng, Calibration(whole, CASES))
        with pytest.raises(StateError, match=r"calibration on the board of the trials, received"):
            METHODS["fitted"](problem)


def test_blocks_that_are_cached_apart_cannot_be_fitted(
    trials: Trials, calibration: Calibration
) -> None:
    problem = Problem(trials, [4], 4, np.random.default_rng(0), calibration)

    with pytest.raises(UnsupportedModelError, match="cached as a whole"):
        METHODS["fitted"](problem)
