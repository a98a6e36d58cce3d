import numpy as np
import pytest
import torch

from ditcache_rl.schedules.forecast import weighted_sum
from ditcache_rl.types import HISTORY


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_summed_with_their_own_weights_in_the_input_dtype(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    residuals = [torch.randn(4, 7, generator=generator).to(dtype) for _ in range(HISTORY)]
    untouched = [residual.clone() for residual in residuals]
    weights = np.array([[1, 0, 0], [2.5, -1.5, 0], [3, -3, 1], [1, 0, 0]], dtype=np.float64)

    total = weighted_sum(residuals, weights)

    values = np.stack([residual.double().numpy() for residual in residuals])
    expected = np.einsum("rk,krf->rf", weights, values)
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
    weights = np.array([[1, 0, 0], [1.7, -0.7, 0], [3.3, -3.1, 0.8], [1.7, -0.7, 0]])

    batch = weighted_sum(residuals, weights)

    for row in range(4):
        alone = weighted_sum([r[[row]] for r in residuals], weights[[row]])
        assert torch.equal(batch[[row]], alone)
    twins = [1, 3]
    assert torch.equal(batch[twins], weighted_sum([r[twins] for r in residuals], weights[twins]))


def test_reuse_returns_the_newest_itself() -> None:
    residuals = [torch.ones(2, 3), torch.zeros(2, 3)]

    assert weighted_sum(residuals, np.array([[1.0, 0, 0]] * 2)) is residuals[0]
