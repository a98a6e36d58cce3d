from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import Schedule, modes_text
from ditcache_rl.types import HISTORY, Mode, Modes

SCHEDULE = Schedule.from_text("CR1C | C1C2")
ONE_SITE = np.array([[0], [1], [2], [0]], dtype=np.int8)


def test_a_schedule_counts_what_it_computes() -> None:
    assert SCHEDULE.modes.tolist() == [[0, 0], [1, 2], [2, 0], [0, 3]]
    assert (SCHEDULE.steps, SCHEDULE.sites, SCHEDULE.computes) == (4, 2, 4)
    assert SCHEDULE.costs.tolist() == [2, 0, 1, 1]
    assert SCHEDULE.path == (0, 2, 3)


@pytest.mark.parametrize(
    "modes",
    [
        np.array([[0, 1], [0, 0]]),
        np.zeros((0, 1)),
        np.zeros((1, 0)),
        np.zeros(3),
        np.zeros((2, 1, 1)),
    ],
)
def test_a_table_that_reuses_at_the_first_step_or_is_none_is_refused(modes: Any) -> None:
    with pytest.raises(ConfigError, match="whose first step computes"):
        Schedule(modes.astype(np.int8))


@pytest.mark.parametrize("mode", [-1, 4, 256])
def test_a_mode_that_is_none_is_refused(mode: int) -> None:
    with pytest.raises(ConfigError, match=rf"expected modes in \[0, 3\], received .*{mode}"):
        Schedule(np.array([[0], [mode]]))


def test_coefficients_belong_to_one_site_and_every_step() -> None:
    coefficients = np.ones((4, HISTORY))

    assert Schedule(ONE_SITE, coefficients).coefficients is coefficients
    for modes, wrong in (
        (np.repeat(ONE_SITE, 2, axis=1), coefficients),
        (ONE_SITE, coefficients[:3]),
        (ONE_SITE, coefficients[:, :2]),
        (ONE_SITE, coefficients[:, None]),
    ):
        with pytest.raises(ConfigError, match="expected coefficients of shape"):
            Schedule(modes, wrong)


def test_coefficients_that_are_all_unknown_are_none() -> None:
    bare = Schedule(ONE_SITE, np.full((4, HISTORY), np.nan))

    assert bare.coefficients is None
    assert bare == Schedule(ONE_SITE)


def test_schedules_are_equal_where_they_compute_and_estimate_the_same() -> None:
    coefficients = np.full((4, HISTORY), np.nan)
    coefficients[1] = 1.5, -0.5, 0.0
    fitted = Schedule(ONE_SITE, coefficients)

    assert Schedule(ONE_SITE) == Schedule.from_text("CR1C")
    assert hash(Schedule(ONE_SITE)) == hash(Schedule.from_text("CR1C"))
    assert fitted == Schedule(ONE_SITE.copy(), coefficients.copy())
    assert hash(fitted) == hash(Schedule(ONE_SITE.copy(), coefficients.copy()))
    different = [fitted, Schedule(ONE_SITE), Schedule(ONE_SITE, 2 * coefficients)]
    # Modes of the same bytes, in another shape.
    different += [Schedule.from_text(text) for text in ("CRCC", "C | C | C | C", "CC | CC")]
    assert len(set(different)) == len(different)
    assert Schedule(ONE_SITE) != "CR1C"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((0,), "CRRRRR"),
        ((0, 3), "CRRC11"),
        ((0, 1, 3), "CC1C22"),
        ((0, 1, 2, 4), "CCC2C2"),
        (tuple(range(6)), "CCCCCC"),
    ],
)
def test_a_schedule_on_a_path_uses_all_that_is_known_between(
    path: tuple[int, ...], text: str
) -> None:
    schedule = Schedule.on_path(path, 6)

    assert schedule.text == text
    assert schedule.path == path
    assert schedule.coefficients is None


@given(st.integers(1, 4), st.integers(1, 9), st.randoms(use_true_random=False))
def test_modes_and_their_text_go_together(sites: int, steps: int, random: Any) -> None:
    modes: Modes = np.array(
        [[random.randrange(4) for _ in range(sites)] for _ in range(steps)], dtype=np.int8
    )
    modes[0] = Mode.COMPUTE

    schedule = Schedule.from_text(modes_text(modes))

    np.testing.assert_array_equal(schedule.modes, modes)
    assert schedule.text == modes_text(modes)


@pytest.mark.parametrize("text", ["C11C | C11", "C | ", "C11X | C11C", "c11C", "C11C|C11C", "C.1C"])
def test_a_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a letter of CR12 per step"):
        Schedule.from_text(text)


@pytest.mark.parametrize("text", ["", "R11C", "C1 | R1"])
def test_a_text_whose_first_step_does_not_compute_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="whose first step computes"):
        Schedule.from_text(text)


def test_steps_of_a_log_that_did_nothing_are_dots() -> None:
    assert modes_text(np.array([[0, -1], [1, 2]], dtype=np.int8)) == "CR | .1"
