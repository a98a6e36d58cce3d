import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.sensitivity import Grade, grade_sites, graded_modes
from ditcache_rl.types import Mode

GRADES = st.lists(st.sampled_from(list(Grade)), min_size=1, max_size=12)


@given(GRADES, st.integers(1, 30), st.integers(1, 10), st.integers(1, 10))
def test_high_sites_always_compute_and_the_others_when_due(
    grades: list[Grade], steps: int, medium_every: int, low_every: int
) -> None:
    modes = graded_modes(grades, steps, medium_every=medium_every, low_every=low_every)

    StaticSchedule.of(modes)  # the first step computes every site
    every = {Grade.HIGH: 1, Grade.MEDIUM: medium_every, Grade.LOW: low_every}
    for site, grade in enumerate(grades):
        computed = np.flatnonzero(modes[:, site] == Mode.COMPUTE)
        np.testing.assert_array_equal(computed, np.arange(0, steps, every[grade]))


def test_a_step_that_is_high_refreshes_what_waits() -> None:
    low, high = Grade.LOW, Grade.HIGH
    grades = np.array([[low], [low], [high], [low], [low], [low], [low]])

    modes = graded_modes(grades, 7, low_every=3, between=Mode.FORECAST1)

    np.testing.assert_array_equal(np.flatnonzero(modes[:, 0] == Mode.COMPUTE), [0, 2, 5])
    assert (modes[[1, 3, 4, 6]] == Mode.FORECAST1).all()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_more_sensitive_sites_have_no_lower_grade(sensitivity: list[float]) -> None:
    grades = grade_sites(np.array(sensitivity))

    assert (np.diff(grades[np.argsort(sensitivity, kind="stable")]) >= 0).all()


@given(st.integers(1, 10))
def test_grades_are_thirds_of_the_sites(third: int) -> None:
    grades = grade_sites(np.arange(3.0 * third))

    assert [(grades == grade).sum() for grade in Grade] == [third] * 3


def test_what_is_out_of_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 <= low <= high <= 1"):
        grade_sites(np.ones(3), low=0.9, high=0.1)
    with pytest.raises(ConfigError, match="at least 1 step"):
        graded_modes([Grade.LOW], 4, low_every=0)
    with pytest.raises(ConfigError, match=r"\(4, sites\) for 4 steps, received shape \(3, 1\)"):
        graded_modes(np.zeros((3, 1), dtype=np.int8), 4)
