from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.instrument.clock import Clock
from ditcache_rl.schedules import Reached, Schedule, ScheduleTable, Scored, spaced, spaced_table
from ditcache_rl.types import HISTORY, Floats, Mode
from tests.kit.policies import same_table

Arrays = dict[str, NDArray[Any]]


def levels(steps: int) -> Floats:
    return np.linspace(1, 0, steps + 1)


def fitted(path: tuple[int, ...], steps: int) -> Schedule:
    """A schedule with coefficients at the steps between."""
    coefficients = np.full((steps, HISTORY), np.nan)
    between = np.setdiff1d(np.arange(steps), path)
    coefficients[between] = np.random.default_rng(0).normal(size=(len(between), HISTORY))
    return Schedule.on_path(path, steps, coefficients)


#: Nothing is known of the middle one; the first one is fitted.
TABLE = ScheduleTable.of(
    levels(6),
    [
        Scored(fitted((0, 3), 6), 20.0, 0.8, 18.0, 0.7),
        spaced(6, 1, 4),
        Scored(spaced(6, 1, 6), 60.0, 1.0),
    ],
)


@st.composite
def tables(draw: st.DrawFn) -> ScheduleTable:
    """Tables of any schedules, scored or not; those of one site may be fitted."""
    steps, sites = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    score = st.one_of(st.just(float("nan")), st.floats(0, 60))
    numbers = st.lists(st.integers(0, 3), min_size=steps * sites, max_size=steps * sites)
    entries = []
    for flat in draw(st.lists(numbers, min_size=1, max_size=5)):
        modes = np.reshape(flat, (steps, sites)).astype(np.int8)
        modes[0] = Mode.COMPUTE
        coefficients = np.full((steps, HISTORY), np.nan)
        if sites == 1 and draw(st.booleans()):
            coefficients[modes[:, 0] != Mode.COMPUTE] = draw(st.floats(-3, 3))
        given = Schedule(modes, coefficients if sites == 1 else None)
        psnr_db, ssim, *floors = (draw(score) for _ in range(4))
        entries.append(Scored(given, psnr_db, ssim, floors[0], floors[1]))
    return ScheduleTable.of(levels(steps), entries)


@given(tables())
def test_schedules_are_kept_by_what_they_compute_in_ascending_order(table: ScheduleTable) -> None:
    assert list(table) == sorted(table)
    assert len(table) == len(list(table)) == len(table.lines)
    for computes, one in table.items():
        assert one.schedule.computes == computes
        assert table[computes] is one
        assert one.schedule.modes.shape == (table.steps, table.sites)


def test_a_table_is_a_mapping() -> None:
    assert list(TABLE) == [2, 4, 6]
    assert (2 in TABLE, 3 in TABLE, TABLE.get(3)) == (True, False, None)
    with pytest.raises(KeyError):
        TABLE[3]
    assert (TABLE.steps, TABLE.sites, TABLE.site_steps, TABLE.least) == (6, 1, 6, 2)
    wider = spaced_table(levels(4), 3)
    assert (wider.steps, wider.sites, wider.site_steps, wider.least) == (4, 3, 12, 3)


def test_of_two_that_compute_the_same_the_later_one_stays() -> None:
    early, late = Schedule.from_text("CC1"), Schedule.from_text("C1C")

    table = ScheduleTable.of(levels(3), [early, Schedule.from_text("C11"), late])

    assert [one.schedule for one in table.values()] == [Schedule.from_text("C11"), late]


def test_what_is_known_of_a_schedule_stays_and_the_rest_is_unknown() -> None:
    assert TABLE[2][1:5] == (20.0, 0.8, 18.0, 0.7)
    assert np.isnan(TABLE[4][1:5]).all()
    assert TABLE[6][1:3] == (60.0, 1.0)
    assert np.isnan(TABLE[6][3:5]).all()


@pytest.mark.parametrize(
    "schedules",
    [
        [],
        [spaced(5, 1, 2)],
        [spaced(4, 1, 2), spaced(4, 2, 3)],
        [spaced(4, 1, 2), spaced(5, 1, 3)],
    ],
    ids=["none", "other steps", "differing sites", "differing steps"],
)
def test_schedules_of_other_steps_or_sites_are_refused(schedules: list[Schedule]) -> None:
    with pytest.raises(ConfigError, match="expected schedules of 4 steps and the same sites"):
        ScheduleTable.of(levels(4), schedules)


def test_within_takes_the_one_that_computes_most_and_no_more() -> None:
    table = ScheduleTable.of(levels(3), [Schedule.from_text(t) for t in ("C11 | C11", "CC1 | CC1")])

    assert table.least == 2
    assert [table.within(computes).text for computes in (2, 3, 4, 6, 99)] == [
        "C11 | C11",
        "C11 | C11",
        "CC1 | CC1",
        "CC1 | CC1",
        "CC1 | CC1",
    ]
    with pytest.raises(BudgetError, match="at least 2 site computes, received 1"):
        table.within(1)


@given(tables())
def test_a_table_comes_back_from_its_arrays(table: ScheduleTable) -> None:
    arrays = table.to_arrays()

    n, steps, sites = len(table), table.steps, table.sites
    assert {name: values.shape for name, values in arrays.items()} == {
        "sigmas": (steps + 1,),
        "modes": (n, steps, sites),
        "coefficients": (n, steps, HISTORY),
        "quality": (n, 2),
        "floors": (n, 2),
    }
    assert arrays["modes"].dtype == np.int8
    assert same_table(ScheduleTable.from_arrays(arrays), table)


def test_arrays_hold_nan_where_nothing_is_known() -> None:
    arrays = TABLE.to_arrays()

    assert np.isnan(arrays["coefficients"][1:]).all()
    assert np.isnan(arrays["coefficients"][0, [0, 3]]).all()
    assert np.isfinite(arrays["coefficients"][0, [1, 2, 4, 5]]).all()
    np.testing.assert_array_equal(arrays["quality"], [[20, 0.8], [np.nan] * 2, [60, 1]])
    np.testing.assert_array_equal(arrays["floors"], [[18, 0.7], [np.nan] * 2, [np.nan] * 2])


def _half_fitted(arrays: Arrays) -> None:
    arrays["coefficients"][0, 1, 2] = np.nan


def _reusing_first(arrays: Arrays) -> None:
    arrays["modes"][1, 0] = Mode.REUSE


def _two_of_one_number(arrays: Arrays) -> None:
    arrays["modes"][1] = arrays["modes"][0]


def _no_mode(arrays: Arrays) -> None:
    arrays["modes"][1, 1] = 4


def _without_schedules(arrays: Arrays) -> None:
    for name in ("modes", "coefficients", "quality", "floors"):
        arrays[name] = arrays[name][:0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.update(sigmas=a["sigmas"][1:]), r"sigmas must have shape \(7,\)"),
        (lambda a: a.update(modes=a["modes"][0]), "must have shape"),
        (lambda a: a.update(modes=a["modes"][:0, :0]), "must have shape"),
        (lambda a: a.update(modes=a["modes"].repeat(2, axis=2)), "more than one site"),
        (
            lambda a: a.update(coefficients=a["coefficients"][..., :1]),
            rf"coefficients must have shape \(3, 6, {HISTORY}\), received \(3, 6, 1\)",
        ),
        (lambda a: a.update(quality=a["quality"][1:]), r"quality must have shape \(3, 2\)"),
        (lambda a: a.update(floors=a["floors"].T), r"floors must have shape \(3, 2\)"),
        (_half_fitted, "coefficients must be finite or nan as a whole"),
        (_reusing_first, "whose first step computes"),
        (_no_mode, r"expected modes in \[0, 3\]"),
        (_two_of_one_number, "one schedule for each number of computes, received 3 for 2"),
        (_without_schedules, "received none"),
    ],
)
def test_arrays_that_are_no_table_are_refused(
    damage: Callable[[Arrays], Any], message: str
) -> None:
    arrays = {name: values.copy() for name, values in TABLE.to_arrays().items()}
    damage(arrays)

    with pytest.raises(ConfigError, match=message):
        ScheduleTable.from_arrays(arrays)


def test_better_lines_take_the_place_of_what_computes_the_same() -> None:
    better = Scored(spaced(6, 1, 4, power=2.0), 40.0, 0.9)
    new = Scored(spaced(6, 1, 3), 30.0, 0.85)

    table = TABLE.with_lines({4: better, 3: new})

    assert list(table) == [2, 3, 4, 6]
    assert (table[3], table[4]) == (new, better)
    assert (table[2], table[6]) == (TABLE[2], TABLE[6])
    assert same_table(TABLE.with_lines({}), TABLE)
    assert list(TABLE) == [2, 4, 6], "the table itself stays"


def test_lines_of_another_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected schedules of 6 steps and the same sites"):
        TABLE.with_lines({5: Scored(spaced(7, 1, 5))})


def test_the_scored_lines_are_those_whose_quality_is_known() -> None:
    scored = TABLE.scored()

    assert scored is not None
    assert list(scored) == [2, 6]
    assert scored[2] == TABLE[2]
    assert spaced_table(levels(4), 1).scored() is None
    half = TABLE.with_lines({6: TABLE[6]._replace(ssim=np.nan)}).scored()
    assert half is not None
    assert list(half) == [2]


def test_without_floors_all_else_stays() -> None:
    bare = TABLE.without_floors()

    assert list(bare) == list(TABLE)
    for computes, one in bare.items():
        assert one.schedule is TABLE[computes].schedule
        np.testing.assert_array_equal(one[1:3], TABLE[computes][1:3])
        assert np.isnan(one[3:5]).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler, {}),
        (diffusers.FlowMatchEulerDiscreteScheduler, {"invert_sigmas": True}),
        (diffusers.HeunDiscreteScheduler, {}),
        (diffusers.PNDMScheduler, {}),
        (diffusers.DDIMScheduler, {"timestep_spacing": "trailing"}),
        (diffusers.DDIMInverseScheduler, {}),
        (diffusers.DPMSolverMultistepInverseScheduler, {"use_karras_sigmas": True}),
        (diffusers.EDMDPMSolverMultistepScheduler, {"final_sigmas_type": "sigma_min"}),
    ],
)
def test_the_noise_levels_of_real_samplers_are_read(kind: Any, options: dict[str, Any]) -> None:
    scheduler = kind(**options)
    scheduler.set_timesteps(20)
    table = spaced_table(Clock(scheduler).sigmas(), 1)

    assert same_table(ScheduleTable.from_arrays(table.to_arrays()), table)


@pytest.mark.parametrize("levels", [[1, 0.5, 0.75, 0], [0, 0.5, 0.25, 1], [1, 1, 1, 1]])
def test_noise_levels_that_turn_back_are_refused(levels: list[float]) -> None:
    arrays = spaced_table(np.array(levels), 1).to_arrays()

    with pytest.raises(ConfigError, match="noise levels that never rise, or never fall, received"):
        ScheduleTable.from_arrays(arrays)


@given(st.lists(st.floats(10, 60), min_size=1, max_size=9))
def test_what_is_known_of_unseen_prompts_comes_before_what_the_search_saw(
    psnr_db: list[float],
) -> None:
    searched = Scored(spaced(6, 1, 2), psnr_db=61.0)
    many = np.repeat(psnr_db, 1000)

    known = searched._replace(reached=Reached.of(many, many))

    assert searched.unseen_psnr_db == 61.0
    assert known.unseen_psnr_db == pytest.approx(many.mean(), abs=0.5)
