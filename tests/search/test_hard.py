from collections.abc import Sequence

import numpy as np
import pytest

from ditcache_rl.search import Case, Quality, mixed_cases
from ditcache_rl.types import Floats, Modes
from tests.boards import Puzzle, hidden_schedule

#: Seeds are decibels.
CASES = [Case("typical", 1), Case("a", 40), Case("b", 20), Case("c", 50), Case("d", 30)]


class Uneven(Puzzle):
    """Draws every case as well as its seed says, whatever the schedule."""

    def score(
        self,
        cases: Sequence[Case],
        schedules: Sequence[Modes],
        weights: Sequence[Floats] | None = None,
    ) -> Quality:
        super().score(cases, schedules, weights)
        decibels = np.array([float(case.seed) for case in cases])
        return Quality(decibels, decibels / 60)


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize(("count", "seeds"), [(1, [1]), (2, [1, 20]), (3, [1, 20, 40])])
def test_typical_cases_and_those_that_end_worst_take_turns(
    sites: int, count: int, seeds: list[int]
) -> None:
    board = Uneven(hidden_schedule(28, sites, 0))

    found = mixed_cases(board, CASES, count)

    assert [case.seed for case in found] == seeds
    computed = {int((modes == 0).sum()) for modes in board.scored}
    assert computed == {4 * sites}, "one schedule tells for all"


@pytest.mark.parametrize("count", [5, 8])
def test_few_cases_are_all_taken_and_none_is_drawn(count: int) -> None:
    board = Uneven(hidden_schedule(28, 1, 0))

    assert mixed_cases(board, CASES, count) == CASES
    assert board.scored == []
