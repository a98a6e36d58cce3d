"""Estimate a residual from those computed before; pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.types import HISTORY, Floats


def newton_weights(sigmas: Floats, sigma: float, order: int) -> Floats:
    """Weigh past residuals so that their sum extrapolates to another noise level.

    The polynomial of the given order through the newest order + 1 points, in Newton's form with
    divided differences, is linear in the residuals, so it is evaluated as a weighted sum of them.

    Args:
        sigmas: Noise levels of the past residuals, newest first, pairwise different; at least order
            + 1.
        sigma: Noise level to extrapolate to.
        order: 0 repeats the newest residual.

    Returns:
        (HISTORY,) weights, newest first; zero beyond order + 1. They sum to 1.

    Source: Newton's divided-difference interpolation. Unlike backward differences with k^i / i!
    (TaylorSeer, arXiv 2503.06923) it is exact for polynomials at uneven gaps.
    """
    nodes = np.asarray(sigmas[: order + 1], dtype=np.float64)
    # Row i holds the divided difference f[0..i] as weights of the residuals.
    table = np.eye(order + 1)
    for level in range(1, order + 1):
        gaps = nodes[level:] - nodes[:-level]
        table[level:] = (table[level:] - table[level - 1 : -1]) / gaps[:, None]
    # After the loop, row i is f[node 0 .. node i].
    basis = np.cumprod(np.concatenate([[1.0], sigma - nodes[:-1]])) if order else np.ones(1)
    weights = np.zeros(HISTORY)
    weights[: order + 1] = basis @ table
    return weights


def weighted_sum(residuals: Sequence[Tensor], weights: Floats) -> Tensor:
    """Add up residuals, each row with its own weights.

    Args:
        residuals: Newest first, each (rows, features), same dtype and device. Not modified.
        weights: (rows, HISTORY); columns beyond len(residuals) must be zero.

    Returns:
        (rows, features) in the input dtype, summed in float32; the newest residual itself where the
        weights say so.
    """
    if (weights[:, 0] == 1.0).all() and not weights[:, 1:].any():
        return residuals[0]
    dtype = residuals[0].dtype
    if (weights == weights[0]).all():
        factors: list[float | Tensor] = [float(w) for w in weights[0]]
    else:
        columns = torch.as_tensor(weights, dtype=torch.float32, device=residuals[0].device)
        factors = [columns[:, k : k + 1] for k in range(HISTORY)]
    total = residuals[0].float() * factors[0]
    for k in range(1, len(residuals)):
        if weights[:, k].any():
            total += residuals[k].float() * factors[k]
    return total.to(dtype)
