import pytest

from benchmarks.solver import gains


def test_two_searches_are_compared_at_each_count_and_the_least_gain_is_told() -> None:
    found = gains({"5": [40.0, 50.0], "7": [50.0, 52.0]}, {"5": [38.0, 46.0], "7": [49.0, 51.0]})

    assert found["two_branches_gain_at_5_db"] == pytest.approx(3.0)
    assert found["two_branches_gain_at_7_db"] == pytest.approx(1.0)
    assert found["two_branches_gain_db"] == pytest.approx(1.0)
