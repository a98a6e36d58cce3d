from collections.abc import Sequence

import numpy as np
import pytest

from ditcache_rl.bench import Case, Quality
from ditcache_rl.schedules import Schedule
from ditcache_rl.search import sample_cases
from tests.kit.boards import Puzzle, hidden_schedule

#: Seeds are decibels: the worse ones come last.
CASES = [Case("scene", 50 - index) for index in range(12)]


class Uneven(Puzzle):
    """Draws every case as well as its seed says, whatever the schedule."""

    def score(self, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        super().score(cases, schedules)
        decibels = np.array([float(case.seed) for case in cases])
        return Quality(decibels, decibels / 60)


@pytest.fixture(params=[1, 3])
def board(request: pytest.FixtureRequest) -> Uneven:
    return Uneven(hidden_schedule(28, request.param, 0))


def test_one_in_four_of_the_mixed_cases_is_among_those_that_end_worst(board: Uneven) -> None:
    sample = sample_cases(board, CASES, 8)

    assert sample.hard == CASES[:-5:-1]
    assert sample.typical == CASES[:6]
    assert [case in sample.hard for case in sample.mixed] == [False, False, False, True] * 2
    (schedule,) = set(board.asked)  # one tells for all
    assert schedule.computes == 4 * board.sites


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11])
def test_no_case_is_taken_twice(board: Uneven, count: int) -> None:
    sample = sample_cases(board, CASES, count)

    assert len(set(sample.mixed)) == len(sample.mixed) == count
    assert set(sample.typical) <= set(sample.mixed)
    assert len(sample.hard) == max(1, count // 2)


@pytest.mark.parametrize("count", [12, 40])
def test_few_cases_are_all_taken(board: Uneven, count: int) -> None:
    sample = sample_cases(board, CASES, count)

    assert sample.typical == sample.mixed == CASES
    assert sample.hard == CASES[:-7:-1]
