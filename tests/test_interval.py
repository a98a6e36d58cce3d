"""Of simulated samples an interval holds the mean as often as it says; and it is scipy's."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from ditcache_rl.interval import mean_interval


@pytest.mark.parametrize("n", [2, 5, 40])
def test_nineteen_intervals_of_twenty_hold_the_mean(n: int) -> None:
    samples = np.random.default_rng(n).normal(3.0, 2.0, (4000, n))

    held = np.mean([one.low <= 3.0 <= one.high for one in map(mean_interval, samples)])

    # A share of 4,000 is known to 0.35 %; a normal quantile would hold 70 % and 88 % at 2 and 5.
    assert held == pytest.approx(0.95, abs=4 * 0.0035)


def test_an_interval_of_late_images_holds_their_mean() -> None:
    # Two humps: 95 % of the images around 47 dB, the others late and worth nothing.
    rng = np.random.default_rng(0)
    samples = np.where(rng.random((1000, 2000)) < 0.95, rng.normal(47.0, 4.0, (1000, 2000)), 0.0)

    held = np.mean([one.low <= 0.95 * 47.0 <= one.high for one in map(mean_interval, samples)])

    assert held == pytest.approx(0.95, abs=4 * 0.007)


def test_an_interval_is_that_of_scipy() -> None:
    ours, theirs = np.random.default_rng(1).normal(size=(2, 12))

    found = mean_interval(ours - theirs)

    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())
    assert found.n == 12


def test_equal_values_are_a_point() -> None:
    assert mean_interval(np.full(7, 0.5)) == (0.5, 0.5, 0.5, 7)
    assert not mean_interval(np.zeros(7)).low > 0


def test_a_single_value_is_neither_above_nor_below_anything() -> None:
    found = mean_interval(np.array([0.5]))

    assert (found.mean, found.n) == (0.5, 1)
    assert not found.low > -math.inf
    assert not found.high < math.inf
    assert json.dumps(found.ends) == "null"
