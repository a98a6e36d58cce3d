"""What past outputs are weighed with where one is estimated; pure functions.

The coefficients of a schedule are those of a line through the last two computed steps plus what was
fitted to each gap between computed steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.schedules.schedule import ComputePath
from ditcache_rl.types import HISTORY, Fitted, Floats, Mode, Modes


def newton_coefficients(sigmas: Floats, sigma: float, order: int) -> Floats:
    """Weigh past residuals so that their sum extrapolates to another noise level.

    The polynomial of the given order through the newest order + 1 points, in Newton's form with
    divided differences, is linear in the residuals, so it is evaluated as a weighted sum of them.

    Args:
        sigmas: Noise levels of the past residuals, newest first, pairwise different; at least order
            + 1.
        sigma: Noise level to extrapolate to.
        order: 0 repeats the newest residual.

    Returns:
        (HISTORY,) coefficients, newest first; zero beyond order + 1. They sum to 1.

    Source: Newton's divided-difference interpolation. Unlike backward differences with k^i / i!
    (TaylorSeer, arXiv 2503.06923) it is exact for polynomials at uneven gaps.
    """
    # f[0 .. depth] is the sum of f_i over the product of all s_i - s_j, so every depth adds its
    # basis polynomial over that product to the coefficient of each point. Plain floats: this runs
    # once per row and step, and an array of three numbers costs more than its arithmetic.
    levels = [float(one) for one in sigmas[: order + 1]]
    coefficients = [1.0] + [0.0] * (HISTORY - 1)
    basis = 1.0
    for depth in range(1, order + 1):
        basis *= sigma - levels[depth - 1]
        for i in range(depth + 1):
            gaps = math.prod(levels[i] - levels[j] for j in range(depth + 1) if j != i)
            coefficients[i] += basis / gaps
    return np.array(coefficients)


def line_coefficients(known: Sequence[int], sigmas: Floats, step: int) -> Floats:
    """Return the coefficients of a line through the last two computed steps, newest first."""
    order = min(1, len(known) - 1)
    return newton_coefficients(sigmas[list(known)], float(sigmas[step]), order)


def path_coefficients(path: ComputePath, sigmas: Floats, added: Floats) -> Floats:
    """Write the coefficients of every step: (steps, HISTORY), nan at computed steps.

    Args:
        path: Computed steps.
        sigmas: (steps + 1,) noise levels.
        added: (len(path), HISTORY) what is added to those of a line in the gap after each.
    """
    steps = len(sigmas) - 1
    table = np.full((steps, HISTORY), np.nan)
    for gap, (newest, stop) in enumerate(itertools.pairwise((*path, steps))):
        known = path[: gap + 1][::-1][:HISTORY]
        for step in range(newest + 1, stop):
            table[step] = line_coefficients(known, sigmas, step) + added[gap]
    return table


def added_to_lines(path: ComputePath, sigmas: Floats, coefficients: Floats) -> Floats:
    """Invert `path_coefficients`: (len(path), HISTORY), zero in gaps without a step."""
    lines = path_coefficients(path, sigmas, np.zeros((len(path), HISTORY)))
    first = np.minimum(np.array(path) + 1, len(coefficients) - 1)
    return np.asarray(np.nan_to_num((coefficients - lines)[first]))


def fitted_steps(modes: Modes, coefficients: Floats) -> list[Fitted | None]:
    """Pair the coefficients of every step with the steps whose residuals they weigh.

    Args:
        modes: (steps, rows) of a single site.
        coefficients: (steps, rows, HISTORY), nan where none were fitted.

    Returns:
        One entry per step, None where no row has any.
    """
    steps, rows = modes.shape
    known = np.full((rows, HISTORY), -1, dtype=np.int64)
    found: list[Fitted | None] = []
    for step in range(steps):
        has = np.isfinite(coefficients[step, :, 0])
        found.append(Fitted(known.copy(), coefficients[step]) if has.any() else None)
        computing = modes[step] == Mode.COMPUTE
        known[computing, 1:] = known[computing, :-1]
        known[computing, 0] = step
    return found


def weighted_sum(residuals: Sequence[Tensor], coefficients: Floats) -> Tensor:
    """Add up residuals, each row with its own coefficients; a row is the same in every batch.

    Args:
        residuals: Newest first, each (rows, features), same dtype and device. Not modified.
        coefficients: (rows, HISTORY); columns beyond len(residuals) must be zero.

    Returns:
        (rows, features) in the input dtype, summed in at least float32; the newest residual itself
        where the coefficients say so.
    """
    first = residuals[0]
    dtype = torch.promote_types(first.dtype, torch.float32)
    shared = bool((coefficients == coefficients[0]).all())
    if shared and coefficients[0, 0] == 1.0 and not coefficients[0, 1:].any():
        return first
    factors: Sequence[float | Tensor] = (
        coefficients[0].tolist()
        if shared
        else torch.as_tensor(coefficients, dtype=dtype, device=first.device).unsqueeze(2).unbind(1)
    )
    total = first.to(dtype) * factors[0]
    for residual, factor, column in zip(
        residuals[1:], factors[1:], coefficients.T[1:], strict=False
    ):
        if column.any():
            # Not in one operation: which of them round once and which twice depends on the batch.
            total += residual.to(dtype) * factor
    return total.to(first.dtype)
