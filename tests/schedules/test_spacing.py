import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.schedules import Schedule, spaced, spaced_table
from ditcache_rl.schedules.patterns import pattern_numbers, step_patterns
from ditcache_rl.schedules.spacing import cut_down, first_sites, pay_up
from ditcache_rl.types import Mode


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Schedules whose steps compute none, some or all of their sites."""
    steps, sites = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    later = draw(st.lists(st.sampled_from(Mode), min_size=sites * (steps - 1), max_size=24))
    modes = np.zeros((steps, sites), dtype=np.int8)
    modes[1:] = np.reshape(later[: sites * (steps - 1)], (steps - 1, sites))
    return Schedule(modes)


@pytest.mark.parametrize("sites", [1, 2, 3])
@pytest.mark.parametrize("steps", [3, 4, 7, 28])
def test_a_spaced_table_has_a_schedule_for_every_number_of_computes(steps: int, sites: int) -> None:
    sigmas = np.linspace(1, 0, steps + 1)

    table = spaced_table(sigmas, sites)

    assert list(table) == list(range(sites, steps * sites + 1))
    assert table.least == sites
    np.testing.assert_array_equal(table.sigmas, sigmas)
    for computes, one in table.items():
        assert one.schedule.computes == computes
        assert one.schedule.modes.shape == (steps, sites)
        assert not one.schedule.modes[0].any()
        assert np.isnan(one[1:5]).all()
        pattern_numbers(one.schedule.modes, step_patterns(sites))  # a network can act so


def test_spaced_schedules_are_evenly_spaced() -> None:
    table = spaced_table(np.linspace(1, 0, 9), 1)

    assert table[1].schedule.path == (0,)
    assert table[2].schedule.path == (0, 4)
    assert table[4].schedule.path == (0, 2, 4, 6)
    assert table[8].schedule.path == tuple(range(8))
    assert set(table[2].schedule.modes[[1, 2, 3, 5, 6, 7], 0]) == {Mode.FORECAST1}


def test_a_power_crowds_computed_steps_at_the_end_or_at_the_start() -> None:
    paths = [spaced(20, 1, 4, power=power).path for power in (0.5, 1.0, 2.0)]

    # Of 20 steps 1 / 4, 2 / 4 and 3 / 4, to these powers.
    assert paths == [(0, 10, 14, 17), (0, 5, 10, 15), (0, 1, 5, 11)]


@pytest.mark.parametrize("between", [Mode.REUSE, Mode.FORECAST1, Mode.FORECAST2])
def test_a_rest_computes_the_first_sites_of_a_step_between(between: Mode) -> None:
    schedule = spaced(6, 3, 8, between=between)

    c, f, b = Mode.COMPUTE, Mode.FORECAST1, between
    assert schedule.modes.tolist() == [[c] * 3, [b] * 3, [b] * 3, [c] * 3, [c, c, f], [b] * 3]


def test_spaced_schedules_compute_the_last_step_where_it_is_fixed() -> None:
    found = [spaced(9, 1, computes, between=Mode.REUSE, ends=True) for computes in (2, 3, 5)]

    assert [one.path for one in found] == [(0, 8), (0, 4, 8), (0, 2, 4, 6, 8)]


def test_the_first_sites_compute_and_the_others_are_forecast() -> None:
    c, f = Mode.COMPUTE, Mode.FORECAST1
    assert [first_sites(n, 2).tolist() for n in range(3)] == [[f, f], [c, f], [c, c]]


@pytest.mark.parametrize("sites", [1, 3])
def test_paying_up_keeps_what_is_computed_and_fills_the_longest_gap(sites: int) -> None:
    modes = np.full((12, sites), Mode.FORECAST1, dtype=np.int8)
    modes[[0, 2]] = Mode.COMPUTE
    schedule = Schedule(modes)

    for computes in range(2 * sites, 12 * sites + 1):
        paid = pay_up(schedule, computes)
        assert paid.computes == computes
        assert (paid.costs >= schedule.costs).all()

    assert pay_up(schedule, 3 * sites).path == (0, 2, 7)  # between 2 and the end


@given(schedules(), st.data())
def test_paying_up_computes_so_many_and_changes_no_other_step(
    schedule: Schedule, data: st.DataObject
) -> None:
    computes = data.draw(st.integers(schedule.computes, schedule.modes.size))

    paid = pay_up(schedule, computes)

    assert paid.computes == computes
    assert (paid.costs >= schedule.costs).all()
    same = paid.costs == schedule.costs
    np.testing.assert_array_equal(paid.modes[same], schedule.modes[same])


@given(schedules(), st.data())
def test_cutting_down_computes_no_more_and_adds_nothing(
    schedule: Schedule, data: st.DataObject
) -> None:
    computes = data.draw(st.integers(schedule.sites, schedule.modes.size))

    cut = cut_down(schedule, computes)

    assert cut.computes <= computes
    assert not cut.modes[0].any()
    kept = cut.costs > 0
    np.testing.assert_array_equal(cut.modes[kept], schedule.modes[kept])
    # The step that was taken last would not have been taken if there had been room for it.
    assert schedule.computes <= computes or cut.computes > computes - schedule.sites


def test_cutting_down_takes_where_gaps_are_shortest_and_fills_as_before() -> None:
    schedule = Schedule.from_text("CRRCRCR11C")

    assert [cut_down(schedule, n).text for n in (5, 4, 3, 2, 1)] == [
        "CRRCRCR11C",
        "CRRCRCR11C",
        "CRRRRCR11C",
        "CRRRRRR11C",
        "CRRRRRR111",
    ]


def test_a_step_that_followed_a_computed_one_is_forecast_once_cut() -> None:
    assert cut_down(Schedule.from_text("CCRR"), 1).text == "C1RR"


def test_what_computes_enough_stays_with_its_coefficients() -> None:
    fitted = Schedule.on_path((0, 2), 4, np.full((4, 3), 0.5))

    assert pay_up(fitted, 2) is fitted
    assert cut_down(fitted, 2) is fitted
    assert pay_up(fitted, 3).coefficients is None
    assert cut_down(fitted, 1).coefficients is None
