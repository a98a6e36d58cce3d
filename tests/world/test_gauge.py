import numpy as np
import pytest

from ditcache_rl.world.gauge import JUMPS, NAMES, RATES, Gauge


def facts(gauge: Gauge) -> dict[str, float]:
    return dict(zip(NAMES, gauge.facts()[0].tolist(), strict=True))


def test_averages_follow_readings_at_their_rates_and_outlive_images() -> None:
    gauge = Gauge(1)
    for _ in range(20):  # more than the slowest average remembers
        gauge.note(np.array([1.0]))
    gauge.note(np.array([np.e]))
    gauge.begin()

    np.testing.assert_allclose(gauge.averages[0], RATES)
    assert facts(gauge)["slowdown_at_start"] == pytest.approx(RATES[0])


def test_first_readings_count_alike_however_slow_an_average_is() -> None:
    gauge = Gauge(1)
    gauge.note(np.array([np.exp(2.0)]))
    np.testing.assert_allclose(gauge.averages[0], 2.0)
    gauge.note(np.array([np.exp(4.0)]))

    quick, *others = gauge.averages[0]
    assert quick == pytest.approx(2.0 + RATES[0] * 2.0)
    np.testing.assert_allclose(others, 3.0)


def test_an_image_knows_its_extremes_and_spread() -> None:
    gauge = Gauge(1)
    for slowdown in (1.0, 4.0):
        gauge.note(np.array([slowdown]))
    found = facts(gauge)

    assert found["least_slowdown"] == 0.0
    assert found["most_slowdown"] == pytest.approx(np.log(4))
    assert found["spread_of_slowdown"] == pytest.approx(np.log(4) / 2)


def test_rows_without_a_reading_stay_as_they_were() -> None:
    gauge = Gauge(2)
    gauge.note(np.array([2.0, 2.0]), np.array([True, False]))

    assert not gauge.facts()[1].any()
    assert gauge.facts()[0].any()


def test_a_copy_goes_its_own_way() -> None:
    gauge = Gauge(1)
    twin = gauge.copy()
    twin.note(np.array([3.0]))

    assert not gauge.facts().any()


def test_how_much_readings_jump_outlives_images() -> None:
    steady, jumping = Gauge(1), Gauge(1)
    for reading in range(20):
        steady.note(np.array([3.0]))
        jumping.note(np.array([3.0 if reading % 2 else 2.5]))
    for gauge in (steady, jumping):
        gauge.begin()

    quick, slow = (f"mean_jump_at_rate_{rate:g}" for rate in JUMPS)
    assert facts(steady)[quick] == pytest.approx(2 * np.log(0.05 / 0.08))  # as a simulated one
    # What jumped before counts as twenty readings of 0.08, and the first reading is no jump.
    jump = np.log(3.0 / 2.5)
    expected = 0.08 * np.prod([1 - 1 / (20 + read) for read in range(1, 20)])
    mean = expected + jump * (1 - expected / 0.08)
    assert facts(jumping)[slow] == pytest.approx(2 * np.log(mean / 0.08))
    assert facts(jumping)[quick] > facts(jumping)[slow]
    for reading in range(200):
        jumping.note(np.array([9.0 if reading % 2 else 1.0]))
    assert facts(jumping)[quick] == pytest.approx(2 * np.log(0.25 / 0.08))  # as the wildest
