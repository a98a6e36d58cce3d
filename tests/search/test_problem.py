from typing import Any

import numpy as np
import pytest

from ditcache_rl.schedules import Schedule, ScheduleTable, Scored, spaced
from ditcache_rl.schedules.spacing import pay_up
from ditcache_rl.search import METHODS, Calibration, Problem, Space
from ditcache_rl.types import Mode
from tests.kit.boards import Puzzle, hidden_schedule, puzzle_problem

STEPS = 10


def problem_of(
    computes: list[int], evaluations: int = 20, *, sites: int = 1, **options: Any
) -> Problem:
    return puzzle_problem(
        Puzzle(hidden_schedule(STEPS, sites, 0)), computes, evaluations, **options
    )


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize("between", [(Mode.REUSE,), (Mode.FORECAST1,), tuple(Mode)[1:]])
def test_a_search_starts_from_schedules_that_are_spaced_in_several_ways(
    between: tuple[Mode, ...], sites: int
) -> None:
    space = Space(STEPS, sites, between=between, ends=True)
    problem = problem_of([], sites=sites, space=space)

    first = problem.first(4 * sites, None, propose=True)

    assert spaced(STEPS, sites, 4 * sites, between=between[-1], ends=True) in first
    assert len({schedule.path for schedule in first}) > 1
    for schedule in first:
        assert schedule.computes == 4 * sites
        assert not schedule.modes[[0, -1]].any()
        assert set(schedule.modes.ravel().tolist()) <= {Mode.COMPUTE, *between}


def test_a_start_takes_the_place_of_what_is_spaced_where_it_has_any() -> None:
    known = Schedule.on_path((0, 1, 2), STEPS, np.full((STEPS, 3), 0.5))
    start = ScheduleTable.of(np.linspace(1, 0, STEPS + 1), [known])
    problem = problem_of([], start=start)

    assert problem.first(3, None, propose=False) == [Schedule(known.modes)], "without its fits"
    spaced_ones = problem_of([]).first(4, None, propose=False)
    assert problem.first(4, None, propose=False) == spaced_ones


def test_what_was_found_before_is_grown_to_what_is_asked_for() -> None:
    problem = problem_of([])
    before = Schedule.on_path((0, 1, 2), STEPS, np.full((STEPS, 3), 0.5))

    grown, *others = problem.first(5, before, propose=False)

    assert grown == pay_up(Schedule(before.modes), 5)
    assert others == problem.first(5, None, propose=False)


def test_only_methods_that_ask_are_proposed_to_and_what_is_proposed_comes_first() -> None:
    asked: list[int] = []
    proposed = Schedule.on_path((0, 1), STEPS)

    def propose(calibration: Calibration, space: Space, computes: int) -> list[Schedule]:
        assert calibration is problem.calibration
        assert space is problem.space
        asked.append(computes)
        return [proposed]

    problem = problem_of([], propose=propose)
    before = Schedule.on_path((0,), STEPS)

    first = problem.first(2, before, propose=True)

    assert first[:2] == [proposed, pay_up(before, 2)]
    assert problem.first(2, before, propose=False) == first[1:]
    assert asked == [2]
    nobody = problem_of([], propose=None)
    assert nobody.first(2, before, propose=True) == first[1:]


@pytest.mark.parametrize(("evaluations", "left"), [(20, 20), (1, 1), (0, 6)])
def test_without_evaluations_the_starts_alone_may_be_scored(evaluations: int, left: int) -> None:
    problem = problem_of([4], evaluations)
    first = problem.first(4, None, propose=False)
    assert len(first) == 6

    assert problem.attempt(first).left == left


@pytest.mark.parametrize("name", ["climb", "anneal"])
def test_the_first_number_grows_from_the_schedule_before_and_each_other_from_the_last(
    name: str,
) -> None:
    puzzle = Puzzle(Schedule.from_text("CCRRCRRRRR"))  # nothing that is spaced comes near
    before = Schedule.from_text("CCRRRRRRRR")

    table = METHODS[name](puzzle_problem(puzzle, [3, 4], 0, before=before))

    assert table[3].schedule == pay_up(before, 3)
    assert pay_up(table[3].schedule, 4) in puzzle.asked


def test_what_is_found_becomes_a_table_of_the_run() -> None:
    problem = problem_of([2, 4])
    found = [Scored(spaced(STEPS, 1, 4), 30.0, 0.9), Scored(spaced(STEPS, 1, 2), 20.0, 0.8)]

    table = problem.table(found)

    np.testing.assert_array_equal(table.sigmas, problem.trials.board.sigmas())
    assert list(table.values()) == found[::-1]
