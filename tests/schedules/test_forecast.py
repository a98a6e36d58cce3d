import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditcache_rl.schedules.forecast import newton_weights
from ditcache_rl.types import HISTORY

GAPS = st.floats(0.01, 0.3)
ORDERS = st.integers(0, 2)


@st.composite
def falling_sigmas(draw: st.DrawFn) -> NDArray[np.float64]:
    """Noise levels at uneven gaps, newest first: the one ahead, then those of the history."""
    gaps = draw(st.lists(GAPS, min_size=HISTORY, max_size=HISTORY))
    return np.cumsum([0.0, *gaps])


@given(falling_sigmas(), ORDERS, st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_a_forecast_is_exact_on_polynomials_of_its_order(
    sigmas: NDArray[np.float64], order: int, coefficients: list[float]
) -> None:
    polynomial = np.polynomial.Polynomial(coefficients[: order + 1])
    ahead, past = float(sigmas[0]), sigmas[1:]

    weights = newton_weights(past, ahead, order)

    # Gaps of 0.01 next to gaps of 0.3 give weights near 1e3, which costs three digits.
    assert weights @ polynomial(past) == pytest.approx(polynomial(ahead), abs=1e-10)


@given(falling_sigmas(), ORDERS)
def test_weights_sum_to_one_and_end_with_the_order(sigmas: NDArray[np.float64], order: int) -> None:
    weights = newton_weights(sigmas[1:], float(sigmas[0]), order)

    assert weights.shape == (HISTORY,)
    assert weights.sum() == pytest.approx(1, abs=1e-10)
    assert not weights[order + 1 :].any()


@given(falling_sigmas(), ORDERS)
def test_weights_equal_a_least_squares_fit_through_the_same_points(
    sigmas: NDArray[np.float64], order: int
) -> None:
    ahead, past = sigmas[0], sigmas[1 : order + 2]
    values = np.random.default_rng(0).normal(size=(order + 1, 4))

    weights = newton_weights(sigmas[1:], float(ahead), order)

    fitted = np.vander([ahead], order + 1) @ np.polyfit(past, values, order)
    # The fit squares the condition of its matrix, so it and not the weights sets the tolerance.
    np.testing.assert_allclose(weights[: order + 1] @ values, fitted[0], rtol=1e-6, atol=1e-6)


def test_order_zero_repeats_the_newest() -> None:
    assert newton_weights(np.array([0.5]), 0.1, 0).tolist() == [1, 0, 0]


def test_even_gaps_give_the_textbook_weights() -> None:
    past = np.array([0.7, 0.8, 0.9])

    np.testing.assert_allclose(newton_weights(past, 0.6, 1), [2, -1, 0], atol=1e-12)
    np.testing.assert_allclose(newton_weights(past, 0.6, 2), [3, -3, 1], atol=1e-12)
