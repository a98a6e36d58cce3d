"""Add up past residuals with given weights; pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ditcache_rl.types import Floats


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
