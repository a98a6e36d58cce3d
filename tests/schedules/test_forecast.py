import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.schedules.forecast import (
    added_to_lines,
    fitted_steps,
    newton_coefficients,
    path_coefficients,
    weighted_sum,
)
from ditcache_rl.types import HISTORY, Floats

GAPS = st.floats(0.01, 0.3)
ORDERS = st.integers(0, 2)


@st.composite
def falling_sigmas(draw: st.DrawFn) -> NDArray[np.float64]:
    """Noise levels at uneven gaps, newest first: the one ahead, then those of the history."""
    gaps = draw(st.lists(GAPS, min_size=HISTORY, max_size=HISTORY))
    return np.cumsum([0.0, *gaps])


@given(falling_sigmas(), ORDERS, st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_a_forecast_is_exact_on_polynomials_of_its_order(
    sigmas: NDArray[np.float64], order: int, factors: list[float]
) -> None:
    polynomial = np.polynomial.Polynomial(factors[: order + 1])
    ahead, past = float(sigmas[0]), sigmas[1:]

    coefficients = newton_coefficients(past, ahead, order)

    # Gaps of 0.01 next to gaps of 0.3 give coefficients near 1e3, which costs three digits.
    assert coefficients @ polynomial(past) == pytest.approx(polynomial(ahead), abs=1e-10)


@given(falling_sigmas(), ORDERS)
def test_coefficients_sum_to_one_and_end_with_the_order(
    sigmas: NDArray[np.float64], order: int
) -> None:
    coefficients = newton_coefficients(sigmas[1:], float(sigmas[0]), order)

    assert coefficients.shape == (HISTORY,)
    assert coefficients.sum() == pytest.approx(1, abs=1e-10)
    assert not coefficients[order + 1 :].any()


@given(falling_sigmas(), ORDERS)
def test_coefficients_equal_a_least_squares_fit_through_the_same_points(
    sigmas: NDArray[np.float64], order: int
) -> None:
    ahead, past = sigmas[0], sigmas[1 : order + 2]
    values = np.random.default_rng(0).normal(size=(order + 1, 4))

    coefficients = newton_coefficients(sigmas[1:], float(ahead), order)

    fitted = np.vander([ahead], order + 1) @ np.polyfit(past, values, order)
    # The fit squares the condition of its matrix, so it sets the tolerance.
    np.testing.assert_allclose(coefficients[: order + 1] @ values, fitted[0], rtol=1e-6, atol=1e-6)


def test_order_zero_repeats_the_newest() -> None:
    assert newton_coefficients(np.array([0.5]), 0.1, 0).tolist() == [1, 0, 0]


def test_even_gaps_give_the_textbook_coefficients() -> None:
    past = np.array([0.7, 0.8, 0.9])

    np.testing.assert_allclose(newton_coefficients(past, 0.6, 1), [2, -1, 0], atol=1e-12)
    np.testing.assert_allclose(newton_coefficients(past, 0.6, 2), [3, -3, 1], atol=1e-12)


@st.composite
def paths(draw: st.DrawFn) -> tuple[ComputePath, Floats]:
    """A path, and noise levels of its run."""
    steps = draw(st.integers(1, 9))
    gaps = draw(st.lists(GAPS, min_size=steps, max_size=steps))
    later = draw(st.sets(st.integers(1, steps - 1))) if steps > 1 else set()
    return (0, *sorted(later)), np.cumsum([0.0, *gaps])[::-1]


@given(paths(), st.integers(0, 2**16))
def test_a_step_weighs_what_was_computed_before_it_by_a_line_and_what_its_gap_adds(
    drawn: tuple[ComputePath, Floats], seed: int
) -> None:
    path, sigmas = drawn
    added = np.random.default_rng(seed).normal(size=(len(path), HISTORY))

    table = path_coefficients(path, sigmas, added)

    assert table.shape == (len(sigmas) - 1, HISTORY)
    for step, coefficients in enumerate(table):
        if step in path:
            assert np.isnan(coefficients).all()
            continue
        known = [computed for computed in path if computed < step]
        past = sigmas[known[::-1]]
        line = newton_coefficients(past, float(sigmas[step]), min(1, len(known) - 1))
        np.testing.assert_allclose(coefficients, line + added[len(known) - 1])


@given(paths(), st.integers(0, 2**16))
def test_what_was_added_to_lines_is_told_from_the_coefficients(
    drawn: tuple[ComputePath, Floats], seed: int
) -> None:
    path, sigmas = drawn
    added = np.random.default_rng(seed).normal(size=(len(path), HISTORY))
    added[np.diff([*path, len(sigmas) - 1]) == 1] = 0  # no step would tell

    found = added_to_lines(path, sigmas, path_coefficients(path, sigmas, added))

    np.testing.assert_allclose(found, added, atol=1e-9)


def test_coefficients_go_with_the_steps_whose_residuals_they_weigh() -> None:
    modes = np.stack([Schedule.from_text(t).modes[:, 0] for t in ("CR1CR2", "CCC2C2")], axis=1)
    coefficients = np.full((6, 2, HISTORY), np.nan)
    coefficients[[1, 5], 0], coefficients[[3, 5], 1] = 2.0, 3.0

    found = fitted_steps(modes, coefficients)

    assert [one is None for one in found] == [True, False, True, False, True, False]
    steps = [[] if one is None else one.steps.tolist() for one in found]
    assert steps[1] == [[0, -1, -1], [0, -1, -1]]
    assert steps[3] == [[0, -1, -1], [2, 1, 0]]
    assert steps[5] == [[3, 0, -1], [4, 2, 1]]
    for step, one in enumerate(found):
        if one is not None:
            np.testing.assert_array_equal(one.coefficients, coefficients[step])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_summed_with_their_own_coefficients_in_the_input_dtype(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    residuals = [torch.randn(4, 7, generator=generator).to(dtype) for _ in range(HISTORY)]
    untouched = [residual.clone() for residual in residuals]
    coefficients = np.array([[1, 0, 0], [2.5, -1.5, 0], [3, -3, 1], [1, 0, 0]], dtype=np.float64)

    total = weighted_sum(residuals, coefficients)

    values = np.stack([residual.double().numpy() for residual in residuals])
    expected = np.einsum("rk,krf->rf", coefficients, values)
    assert total.dtype == dtype
    # One rounding to the dtype, on top of a sum in at least float32.
    torch.testing.assert_close(total, torch.from_numpy(expected).to(dtype), rtol=1e-2, atol=1e-5)
    if dtype == torch.float64:
        np.testing.assert_allclose(total.numpy(), expected, rtol=1e-13, atol=1e-13)
    if dtype == torch.float32:
        np.testing.assert_allclose(total.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(total[[0, 3]], residuals[0][[0, 3]]), "rows that reuse lose no bit"
    assert all(torch.equal(a, b) for a, b in zip(residuals, untouched, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("features", [1, 7, 1000])
def test_a_row_is_summed_alone_as_in_any_batch(dtype: torch.dtype, features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (4, features)
    residuals = [torch.randn(shape, generator=generator).to(dtype) for _ in range(HISTORY)]
    coefficients = np.array([[1, 0, 0], [1.7, -0.7, 0], [3.3, -3.1, 0.8], [1.7, -0.7, 0]])

    batch = weighted_sum(residuals, coefficients)

    for row in range(4):
        alone = weighted_sum([r[[row]] for r in residuals], coefficients[[row]])
        assert torch.equal(batch[[row]], alone)
    twins = [1, 3]
    assert torch.equal(
        batch[twins], weighted_sum([r[twins] for r in residuals], coefficients[twins])
    )


def test_reuse_returns_the_newest_itself() -> None:
    residuals = [torch.ones(2, 3), torch.zeros(2, 3)]

    assert weighted_sum(residuals, np.array([[1.0, 0, 0]] * 2)) is residuals[0]
