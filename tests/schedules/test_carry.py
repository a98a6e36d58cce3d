from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.schedules import (
    ComputePath,
    Schedule,
    ScheduleTable,
    Scored,
    carry,
    rescale,
    spaced,
    spaced_table,
)
from ditcache_rl.schedules.forecast import (
    added_to_lines,
    newton_coefficients,
    path_coefficients,
)
from ditcache_rl.types import HISTORY, Floats, Mode

PATH: ComputePath = (0, 2, 9, 10, 20, 27)


def levels(steps: int, shift: float = 1.5) -> Floats:
    """Noise levels of a flow-matching sampler."""
    sigmas = np.linspace(1, 0, steps + 1)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def made_of(
    *paths: ComputePath, steps: int = 28, seed: int = 0, fitted: bool = True
) -> ScheduleTable:
    """A table of schedules of one site, scored and fitted."""
    entries, rng = [], np.random.default_rng(seed)
    for path in paths:
        added = rng.normal(size=(len(path), HISTORY))
        added[0, 1:] = 0  # nothing older is known there
        added[1:2, 2:] = 0
        coefficients = path_coefficients(path, levels(steps), added) if fitted else None
        schedule = Schedule.on_path(path, steps, coefficients)
        entries.append(Scored(schedule, 10.0 * len(path), 0.5, 1.0, 0.1))
    return ScheduleTable.of(levels(steps), entries)


def coefficients_of(table: ScheduleTable, computes: int) -> Floats:
    """The coefficients of a schedule that has some."""
    coefficients = table[computes].schedule.coefficients
    assert coefficients is not None
    return coefficients


def schedules_of(table: ScheduleTable) -> Mapping[int, Schedule]:
    return {computes: scored.schedule for computes, scored in table.items()}


def test_the_same_levels_carry_schedules_and_coefficients_over_unchanged() -> None:
    source = made_of(PATH, (0, 5), (0,))

    same = carry([source], source.sigmas)

    assert list(same) == [1, 2, 6, 28]
    np.testing.assert_array_equal(same.sigmas, source.sigmas)
    for computes, one in source.items():
        np.testing.assert_array_equal(same[computes].schedule.modes, one.schedule.modes)
        assert same[computes][1:3] == one[1:3]
        np.testing.assert_allclose(
            coefficients_of(same, computes), coefficients_of(source, computes), atol=1e-12
        )


def test_other_steps_get_as_many_computes_and_what_was_fitted_to_their_gaps() -> None:
    path = (0, 6, 12, 24)
    source = made_of(path)

    carried = carry([source], levels(14))

    # Half as many steps at the same shift: every second noise level.
    assert carried[4].schedule.path == (0, 3, 6, 12)
    line = newton_coefficients(levels(14)[[6, 3]], float(levels(14)[8]), 1)
    added = added_to_lines(path, source.sigmas, coefficients_of(source, 4))
    np.testing.assert_allclose(coefficients_of(carried, 4)[8], line + added[2], atol=1e-12)
    assert carried[4][1:3] == (40.0, 0.5)
    assert all(np.isnan(one[3:5]).all() for one in carried.values())


@given(
    st.sets(st.integers(1, 27), max_size=12),
    st.integers(1, 60),
    st.floats(0.5, 4.0),
)
def test_what_is_carried_computes_as_often_and_keeps_its_ends(
    later: set[int], steps: int, shift: float
) -> None:
    path = (0, *sorted(later))

    carried = carry([made_of(path)], levels(steps, shift))

    assert carried[steps].schedule.path == tuple(range(steps)), "what can be done anywhere"
    if len(path) >= steps:
        assert list(carried) == [steps], "there are not as many steps"
        return
    assert list(carried) == [len(path), steps]
    found = carried[len(path)].schedule.path
    assert len(found) == len(path)
    assert found[0] == 0
    assert (found[-1] == steps - 1) or path[-1] < 27 or len(path) == 1


def test_computes_come_from_the_table_whose_computed_steps_move_least() -> None:
    near, far = made_of((0, 10, 20), (0, 14), steps=40), made_of((0, 7, 13), (0, 9))

    carried = carry([far, near], levels(20))

    assert carried[3].schedule.path == (0, 5, 10)
    assert carried[2].schedule.path == (0, 7)
    added = added_to_lines((0, 5, 10), levels(20), coefficients_of(carried, 3))
    expected = added_to_lines((0, 10, 20), near.sigmas, coefficients_of(near, 3))
    np.testing.assert_allclose(added, expected, atol=1e-12)


def test_a_table_with_fitted_coefficients_goes_before_one_without() -> None:
    fitted, bare = made_of((0, 9)), made_of((0, 10), steps=40, fitted=False)

    carried = carry([bare, fitted], levels(20))

    assert np.isfinite(coefficients_of(carried, 2)).any()


@pytest.mark.parametrize("sites", [1, 3])
def test_full_compute_stays_full_compute(sites: int) -> None:
    full = Schedule(np.zeros((8, sites), dtype=np.int8))
    table = ScheduleTable.of(levels(8), [Scored(full, 60.0, 1.0)])

    carried = carry([table], levels(5))

    assert list(carried) == [5 * sites]
    assert not carried[5 * sites].schedule.modes.any()
    assert carried[5 * sites][1:3] == (60.0, 1.0)


@pytest.mark.parametrize("steps", [5, 11, 12, 30])
def test_partly_computed_steps_are_carried_as_they_are(steps: int) -> None:
    table = ScheduleTable.of(levels(12), [Schedule.from_text("CRR211C22222 | CRRC11C22222")])

    carried = carry([table], levels(steps))

    schedule = carried[5].schedule
    assert schedule.modes[list(schedule.path)].tolist() == [
        [Mode.COMPUTE, Mode.COMPUTE],
        [Mode.FORECAST2, Mode.COMPUTE],
        [Mode.COMPUTE, Mode.COMPUTE],
    ]
    assert (schedule.modes[-1] == Mode.FORECAST2).all(), "the end goes on as it did"


@pytest.mark.parametrize("steps", [20, 24, 36])
def test_what_was_evenly_spaced_is_evenly_spaced_again_and_without_its_fits(steps: int) -> None:
    source = made_of((0, 2, 5, 7, 9, 12, 14, 16, 19, 21, 23, 26))

    schedule = carry([source], levels(steps))[12].schedule

    gaps = np.diff([*schedule.path, steps])
    assert np.ptp(gaps) <= 1
    assert schedule.coefficients is None
    assert set(schedule.modes[3:].ravel().tolist()) == {Mode.COMPUTE, Mode.FORECAST1}


def rescaled(table: ScheduleTable, new_steps: int) -> ScheduleTable:
    """Ask for every number of computes."""
    every = range(table.sites, new_steps * table.sites + 1)
    return rescale(table, levels(new_steps), computes=every)


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize(("steps", "new_steps"), [(28, 50), (28, 12), (6, 4), (5, 5)])
def test_rescaled_schedules_compute_every_number_that_is_asked_for(
    steps: int, new_steps: int, sites: int
) -> None:
    found = rescaled(spaced_table(levels(steps), sites), new_steps)

    assert list(found) == list(range(sites, new_steps * sites + 1))
    for computes, one in found.items():
        assert one.schedule.computes == computes
        assert not one.schedule.modes[0].any()
        assert np.isnan(one[1:5]).all()


def test_what_is_rescaled_is_carried_and_no_longer_scored() -> None:
    source = made_of(PATH, (0, 5))

    found = rescale(source, levels(20), computes=[4])

    carried = carry([source], levels(20))
    assert list(found) == [2, 4, 6, 20]
    for computes, one in carried.items():
        assert found[computes].schedule == one.schedule
    assert found.scored() is None


def test_the_same_steps_rescale_schedules_to_what_they_were() -> None:
    table = spaced_table(levels(28), 1)

    assert schedules_of(rescaled(table, 28)) == schedules_of(table)


def test_computed_steps_stay_at_their_noise_levels() -> None:
    table = spaced_table(levels(28), 1)

    found = rescaled(table, 56)

    # Twice the steps: every old level is met, and as many steps compute.
    computed = levels(56)[list(found[7].schedule.path)]
    before = levels(28)[list(table[7].schedule.path)]
    np.testing.assert_allclose(computed, before, atol=1e-12)


@pytest.mark.parametrize("sites", [1, 2])
@pytest.mark.parametrize("new_steps", [6, 12, 13, 27, 50])
def test_both_ends_stay_exactly_where_they_are(new_steps: int, sites: int) -> None:
    table = ScheduleTable.of(
        levels(12),
        (
            spaced(12, sites, computes, between=Mode.REUSE, ends=True)
            for computes in (2 * sites, 5 * sites, 12 * sites)
        ),
    )

    found = rescaled(table, new_steps)

    for computes in range(2 * sites, new_steps * sites + 1):
        schedule = found[computes].schedule
        assert not schedule.modes[[0, -1]].any()
        assert schedule.computes == computes


@pytest.mark.parametrize("mode", [Mode.REUSE, Mode.FORECAST1, Mode.FORECAST2])
def test_a_last_step_that_is_not_computed_keeps_its_mode(mode: Mode) -> None:
    modes = np.full((12, 1), mode, dtype=np.int8)
    modes[[0, 5]] = Mode.COMPUTE
    table = ScheduleTable.of(levels(12), [Schedule(modes)])

    for new_steps in (6, 20, 50):
        found = rescaled(table, new_steps)[2].schedule.modes
        assert (found[0, 0], found[-1, 0]) == (Mode.COMPUTE, mode)


def test_too_few_steps_for_any_schedule_are_spread_from_full_compute() -> None:
    table = ScheduleTable.of(levels(28), [spaced(28, 1, 14)])

    found = rescale(table, levels(10), computes=[5])

    assert found[5].schedule.computes == 5
    assert found[5].schedule.path[0] == 0
