import numpy as np
import pytest

from ditcache_rl.search import Space, pay_up
from ditcache_rl.search.space import BETWEEN, move, spaced
from ditcache_rl.types import Mode


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("between", [BETWEEN, (Mode.FORECAST1,)])
@pytest.mark.parametrize("sites", [1, 3])
def test_moves_stay_within_the_space_and_keep_what_is_spent(
    sites: int, between: tuple[Mode, ...], ends: bool
) -> None:
    space, rng = Space(9, sites, between, ends), np.random.default_rng(0)
    changed = 0
    for budget in range(space.least, 9 * sites + 1):
        row = spaced(space, budget, between=Mode.FORECAST1)
        for _ in range(20):
            moved = move(row, space, rng, times=int(rng.integers(1, 5)))
            assert space.computes(moved) == budget
            assert moved[0] == Mode.COMPUTE
            assert not ends or moved[-1] == Mode.COMPUTE
            idle = moved[space.costs[moved] == 0]
            assert set(idle) <= set(map(int, between))
            changed += not np.array_equal(moved, row)
            row = moved
    assert changed > 50


def test_spaced_schedules_compute_the_last_step_where_it_is_fixed() -> None:
    space = Space(9, 1, ends=True)

    rows = [spaced(space, budget, between=Mode.REUSE) for budget in (2, 3, 5)]

    computed = [np.flatnonzero(row == Mode.COMPUTE).tolist() for row in rows]
    assert computed == [[0, 8], [0, 4, 8], [0, 2, 4, 6, 8]]


@pytest.mark.parametrize("sites", [1, 3])
def test_paying_up_keeps_what_is_computed_and_fills_the_longest_gap(sites: int) -> None:
    space = Space(12, sites)
    row = np.full(12, int(Mode.FORECAST1))
    row[[0, 2]] = Mode.COMPUTE

    for budget in range(2 * sites, 12 * sites + 1):
        paid = pay_up(row, budget, space.patterns)
        assert space.computes(paid) == budget
        assert (space.costs[paid] >= space.costs[row]).all()

    (added,) = np.flatnonzero(pay_up(row, 3 * sites, space.patterns) != row)
    assert added == 7  # between 2 and the end
