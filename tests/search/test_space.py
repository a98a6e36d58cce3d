import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import Schedule, spaced
from ditcache_rl.search import Space
from ditcache_rl.search.space import BETWEEN, move
from ditcache_rl.types import Mode


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("between", [BETWEEN, (Mode.FORECAST1,)])
@pytest.mark.parametrize("sites", [1, 3])
def test_moves_stay_within_the_space_and_keep_what_is_computed(
    sites: int, between: tuple[Mode, ...], ends: bool
) -> None:
    space, rng = Space(9, sites, between, ends), np.random.default_rng(0)
    changed = 0
    for computes in range(space.least, 9 * sites + 1):
        schedule = space.spaced(computes, between=Mode.FORECAST1)
        for _ in range(20):
            moved = move(schedule, space, rng, times=int(rng.integers(1, 5)))
            assert moved.computes == computes
            assert not moved.modes[0].any()
            assert not ends or not moved.modes[-1].any()
            idle = moved.modes[moved.costs == 0]
            assert set(idle.ravel().tolist()) <= set(between)
            changed += moved != schedule
            schedule = moved
    assert changed > 50


def test_a_move_leaves_what_it_starts_from_as_it_was() -> None:
    space, schedule = Space(9, 1), spaced(9, 1, 4)
    before = schedule.modes.copy()

    for seed in range(9):
        move(schedule, space, np.random.default_rng(seed), times=4)

    np.testing.assert_array_equal(schedule.modes, before)


@given(st.integers(1, 4), st.integers(0, 2**16))
def test_schedules_and_the_numbers_of_their_patterns_go_together(sites: int, seed: int) -> None:
    space = Space(7, sites)
    numbers = np.random.default_rng(seed).integers(len(space.patterns), size=7)
    numbers[0] = 0

    schedule = space.schedule(numbers)

    np.testing.assert_array_equal(schedule.modes, space.patterns[numbers])
    np.testing.assert_array_equal(space.numbers(schedule), numbers)
    np.testing.assert_array_equal(space.costs[numbers], schedule.costs)


def test_a_schedule_without_step_patterns_lies_outside() -> None:
    with pytest.raises(ConfigError, match="among the step patterns"):
        Space(2, 2).numbers(Schedule.from_text("CR | C1"))


@pytest.mark.parametrize("ends", [False, True])
def test_a_space_spaces_schedules_as_wide_as_it_is(ends: bool) -> None:
    space = Space(9, 2, ends=ends)

    found = space.spaced(7, between=Mode.REUSE, power=1.5)

    assert found == spaced(9, 2, 7, between=Mode.REUSE, power=1.5, ends=ends)
    assert space.least == (4 if ends else 2)
    assert space.free.tolist() == list(range(1, 8 if ends else 9))
