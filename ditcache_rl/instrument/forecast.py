"""Estimate a residual from those computed before; pure functions."""

from __future__ import annotations

import math
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
    # f[0 .. level] is the sum of f_i over the product of all s_i - s_j, so every level adds its
    # basis polynomial over that product to the weight of each point. Plain floats: this runs once
    # per row and step, and an array of three numbers costs more than its arithmetic.
    nodes = [float(node) for node in sigmas[: order + 1]]
    weights = [1.0] + [0.0] * (HISTORY - 1)
    basis = 1.0
    for level in range(1, order + 1):
        basis *= sigma - nodes[level - 1]
        for i in range(level + 1):
            gaps = math.prod(nodes[i] - nodes[j] for j in range(level + 1) if j != i)
            weights[i] += basis / gaps
    return np.array(weights)


def weighted_sum(residuals: Sequence[Tensor], weights: Floats) -> Tensor:
    """Add up residuals, each row with its own weights; a row is the same in every batch.

    Args:
        residuals: Newest first, each (rows, features), same dtype and device. Not modified.
        weights: (rows, HISTORY); columns beyond len(residuals) must be zero.

    Returns:
        (rows, features) in the input dtype, summed in at least float32; the newest residual itself
        where the weights say so.
    """
    first = residuals[0]
    dtype = torch.promote_types(first.dtype, torch.float32)
    shared = bool((weights == weights[0]).all())
    if shared and weights[0, 0] == 1.0 and not weights[0, 1:].any():
        return first
    factors: Sequence[float | Tensor] = (
        weights[0].tolist()
        if shared
        else torch.as_tensor(weights, dtype=dtype, device=first.device).unsqueeze(2).unbind(1)
    )
    total = first.to(dtype) * factors[0]
    for residual, factor, column in zip(residuals[1:], factors[1:], weights.T[1:], strict=False):
        if column.any():
            # Not in one operation: which of them round once and which twice depends on the batch.
            total += residual.to(dtype) * factor
    return total.to(first.dtype)
