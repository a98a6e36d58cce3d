import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.evaluate import (
    Spread,
    frontier_mix,
    interpolate_frontier,
)

points = st.lists(st.tuples(st.floats(0.1, 10), st.floats(10, 60)), min_size=1, max_size=6)


def test_a_spread_is_mean_and_tails() -> None:
    spread = Spread.of(np.arange(101.0))

    assert spread == (50.0, 5.0, 95.0)


def test_the_frontier_is_linear_in_the_logarithm_of_the_time() -> None:
    assert interpolate_frontier([(1.0, 20.0), (4.0, 30.0)], 2.0) == pytest.approx(25.0)


def test_the_frontier_ends_where_the_points_end() -> None:
    line = [(2.0, 30.0), (1.0, 20.0)]

    assert interpolate_frontier(line, 1.0) == 20.0
    assert interpolate_frontier(line, 9.0) == 30.0
    assert math.isnan(interpolate_frontier(line, 0.99))
    assert math.isnan(interpolate_frontier([], 1.0))


def test_a_point_that_another_one_beats_has_no_say() -> None:
    # At 2 s the second point is slower and worse than the first: the line goes from 1 s to 4 s.
    line = [(1.0, 20.0), (2.0, 10.0), (4.0, 30.0)]

    assert interpolate_frontier(line, 2.0) == pytest.approx(25.0)
    np.testing.assert_allclose(frontier_mix(line, 2.0), [0.5, 0.0, 0.5])


def test_a_point_without_quality_has_no_say() -> None:
    assert interpolate_frontier([(1.0, 20.0), (2.0, math.nan), (4.0, 30.0)], 4.0) == 30.0


@given(points, st.floats(0.1, 20))
def test_the_frontier_is_never_below_a_point_that_is_as_fast(
    line: list[tuple[float, float]], at_seconds: float
) -> None:
    value = interpolate_frontier(line, at_seconds)
    reachable = [psnr for seconds, psnr in line if seconds <= at_seconds]

    if not reachable:
        assert math.isnan(value)
    else:
        assert value >= max(reachable) - 1e-9
        assert value <= max(psnr for _, psnr in line) + 1e-9
        assert frontier_mix(line, at_seconds).sum() == pytest.approx(1)
