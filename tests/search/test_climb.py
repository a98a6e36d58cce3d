from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.schedules import ComputePath, ScheduleTable, Scored, spaced
from ditcache_rl.search import METHODS, Space
from ditcache_rl.search.climb import anneal, climb, climb_paths
from ditcache_rl.types import Mode
from tests.kit.boards import Puzzle, hidden_schedule, puzzle_problem

#: Spaced candidates of a search.
FIRST = 6
#: Those, one that is grown from the number of computes before, and a few more.
EVALUATIONS = FIRST + 13


def searched(board: Puzzle, computes: list[int], *, seed: int = 0, **options: Any) -> ScheduleTable:
    return METHODS["climb"](puzzle_problem(board, computes, EVALUATIONS, seed=seed, **options))


@pytest.mark.parametrize("sites", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_number_of_computes_is_met_exactly(sites: int, seed: int) -> None:
    board = Puzzle(hidden_schedule(6, sites, seed))
    computes = list(range(sites, 6 * sites + 1))

    table = searched(board, computes, seed=seed)

    assert list(table) == computes
    for count, (schedule, psnr_db, *_) in table.items():
        assert schedule.computes == count
        assert not schedule.modes[0].any()
        assert psnr_db == board.value(schedule)
    # Nothing else was even tried: whatever is scored computes one of the numbers.
    assert {schedule.computes for schedule in board.asked} == set(computes)


def test_numbers_that_were_not_asked_for_have_no_schedule() -> None:
    table = searched(Puzzle(hidden_schedule(6, 1, 0)), [2, 4])

    assert list(table) == [2, 4]
    assert table.scored() is not None
    np.testing.assert_array_equal(table.sigmas, np.linspace(1, 0, 7))


@pytest.mark.parametrize("seed", range(3))
def test_the_result_is_the_best_of_all_that_was_tried(seed: int) -> None:
    board = Puzzle(hidden_schedule(10, 1, seed))

    table = searched(board, [4])

    found = board.value(table[4].schedule)
    assert found == max(board.value(schedule) for schedule in board.asked)
    assert found >= board.value(spaced(10, 1, 4))


def test_a_start_is_never_made_worse() -> None:
    board = Puzzle(hidden_schedule(10, 1, 3))
    best = ScheduleTable.of(board.sigmas(), [board.hidden])

    table = searched(board, list(best), start=best)

    assert board.value(table[table.least].schedule) == 60.0
    assert table[table.least].schedule == board.hidden


def test_climbing_improves_on_what_it_starts_from() -> None:
    gains = []
    for seed in range(5):
        board = Puzzle(hidden_schedule(10, 1, seed))
        table = searched(board, [5], seed=seed)
        first = max(board.value(schedule) for schedule in board.asked[:FIRST])
        gains.append(board.value(table[5].schedule) - first)

    assert min(gains) >= 0
    assert np.mean(gains) > 0.5


def test_the_same_seed_searches_the_same_way() -> None:
    runs = []
    for seed in (0, 0, 1):
        board = Puzzle(hidden_schedule(10, 2, 7))
        table = searched(board, [6, 9, 14], seed=seed)
        runs.append(([one.schedule for one in table.values()], board.asked))

    (found, asked), (again, asked_again), (_, asked_other) = runs
    assert found == again
    assert asked == asked_again
    assert asked != asked_other


def test_every_schedule_is_reported_when_it_is_found() -> None:
    heard: list[Scored] = []

    table = searched(Puzzle(hidden_schedule(6, 1, 0)), [2, 3], on_found=heard.append)

    assert heard == [table[2], table[3]]


def test_evaluations_are_bounded() -> None:
    board = Puzzle(hidden_schedule(28, 1, 0), rows=2)

    searched(board, [8])

    assert len(set(board.asked)) == len(board.asked) == EVALUATIONS


@pytest.mark.parametrize("strategy", [climb, anneal])
def test_a_search_spends_its_evaluations_and_ends_at_the_best_that_it_saw(strategy: Any) -> None:
    board = Puzzle(hidden_schedule(12, 1, 0))
    problem = puzzle_problem(board, [5], 150)
    first = problem.first(5, None, propose=False)
    attempt = problem.attempt(first)

    best = strategy(attempt, first, problem.space, np.random.default_rng(0))

    assert (attempt.left, attempt.spent) == (0, 150)
    assert board.value(best) == max(map(board.value, board.asked))


@pytest.mark.parametrize("strategy", [climb, anneal])
def test_a_search_ends_when_everything_is_known(strategy: Any) -> None:
    space = Space(4, 1, between=(Mode.REUSE,))
    problem = puzzle_problem(Puzzle(hidden_schedule(4, 1, 0)), [2], 1000, space=space)
    first = problem.first(2, None, propose=False)
    attempt = problem.attempt(first)

    strategy(attempt, first, space, np.random.default_rng(0))

    assert attempt.spent == 3


class Valley:
    """The error of a path: how far its computed steps are from some, squared; counts questions."""

    def __init__(self, *least: int) -> None:
        self.least = least
        self.asked: list[ComputePath] = []

    def error(self, path: ComputePath) -> float:
        return float(sum((a - b) ** 2 for a, b in zip(path, self.least, strict=True)))

    def __call__(self, paths: Sequence[ComputePath]) -> list[float]:
        self.asked += paths
        return [self.error(path) for path in paths]


@given(st.lists(st.integers(1, 11), min_size=3, max_size=3, unique=True), st.integers(0, 99))
def test_a_climb_over_paths_finds_the_bottom_of_a_valley(later: list[int], seed: int) -> None:
    valley = Valley(0, *sorted(later))

    found = climb_paths(
        valley, [(0, 1, 2, 3)], 12, evaluations=10_000, rng=np.random.default_rng(seed)
    )

    assert found == valley.least


@given(
    st.lists(st.integers(1, 11), min_size=3, max_size=3, unique=True),
    st.integers(0, 40),
    st.integers(0, 99),
)
def test_a_climb_over_paths_asks_once_for_each_and_ends_at_the_best_that_it_saw(
    later: list[int], evaluations: int, seed: int
) -> None:
    valley, first = Valley(0, *sorted(later)), [(0, 1, 2, 3), (0, 4, 8, 11), (0, 1, 2, 3)]

    found = climb_paths(valley, first, 12, evaluations=evaluations, rng=np.random.default_rng(seed))

    assert valley.asked[:2] == first[:2], "where it starts is always scored"
    assert len(set(valley.asked)) == len(valley.asked) <= max(evaluations, 2)
    assert found == min(valley.asked, key=valley.error)
    for path in valley.asked:
        assert len(path) == 4
        assert path[0] == 0
        assert list(path) == sorted(set(path))
        assert path[-1] < 12


@given(
    st.lists(st.integers(1, 11), min_size=3, max_size=3, unique=True),
    st.integers(0, 40),
    st.integers(2, 9),
)
def test_a_climb_that_looks_ahead_finds_what_one_finds_that_does_not(
    later: list[int], evaluations: int, width: int
) -> None:
    def found(width: int) -> ComputePath:
        valley, rng = Valley(0, *sorted(later)), np.random.default_rng(1)
        first = [(0, 1, 2, 3), (0, 4, 8, 11)]
        return climb_paths(valley, first, 12, evaluations=evaluations, rng=rng, width=width)

    assert found(width) == found(1)


def test_a_climb_over_paths_stops_after_its_evaluations() -> None:
    valley = Valley(0, 9)

    found = climb_paths(valley, [(0, 3), (0, 2)], 12, evaluations=3, rng=np.random.default_rng(0))

    assert len(valley.asked) == 3
    assert found == min(valley.asked, key=valley.error)


def test_a_path_of_the_first_step_alone_is_where_a_climb_stays() -> None:
    valley = Valley(0)

    found = climb_paths(valley, [(0,)], 12, evaluations=9, rng=np.random.default_rng(0))

    assert found == (0,)
    assert valley.asked == [(0,)]
