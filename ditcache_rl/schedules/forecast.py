"""Schedules of one site as computed steps, and the weights of the forecasts between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.types import HISTORY, Fitted, Floats, Mode, Modes

Nodes = tuple[int, ...]
"""The steps that a schedule computes, ascending, the first one 0."""


def nodes_of(row: NDArray[np.int64]) -> Nodes:
    """Return the steps that a schedule of one site computes."""
    return tuple(np.flatnonzero(row == Mode.COMPUTE).tolist())


def row_of(nodes: Nodes, steps: int) -> NDArray[np.int64]:
    """Fill the steps between computed ones with the mode that uses all that is known there."""
    computed = np.isin(np.arange(steps), nodes)
    known = np.minimum(computed.cumsum(), HISTORY)
    return np.where(computed, int(Mode.COMPUTE), known).astype(np.int64)


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


def line_weights(known: Sequence[int], sigmas: Floats, step: int) -> Floats:
    """Return the weights of a line through the last two computed steps, newest first."""
    order = min(1, len(known) - 1)
    return newton_weights(sigmas[list(known)], float(sigmas[step]), order)


def weights_of(nodes: Nodes, sigmas: Floats, extra: Floats) -> Floats:
    """Write the weights of every step: (steps, HISTORY), nan at computed steps.

    Args:
        nodes: Computed steps.
        sigmas: (steps + 1,) noise levels.
        extra: (nodes, HISTORY) what is added to the weights of a line in the gap after each.
    """
    steps = len(sigmas) - 1
    table = np.full((steps, HISTORY), np.nan)
    for gap, (node, stop) in enumerate(itertools.pairwise((*nodes, steps))):
        known = nodes[: gap + 1][::-1][:HISTORY]
        for step in range(node + 1, stop):
            table[step] = line_weights(known, sigmas, step) + extra[gap]
    return table


def extra_of(nodes: Nodes, sigmas: Floats, weights: Floats) -> Floats:
    """Invert `weights_of`: (nodes, HISTORY), zero in gaps without a step."""
    lines = weights_of(nodes, sigmas, np.zeros((len(nodes), HISTORY)))
    first = np.minimum(np.array(nodes) + 1, len(weights) - 1)
    return np.asarray(np.nan_to_num((weights - lines)[first]))


def fitted_steps(modes: Modes, weights: Floats) -> list[Fitted | None]:
    """Pair the weights of every step with the steps whose residuals they weigh.

    Args:
        modes: (steps, rows) of a single site.
        weights: (steps, rows, HISTORY), nan where none were fitted.

    Returns:
        One entry per step, None where no row has any.
    """
    steps, rows = modes.shape
    known = np.full((rows, HISTORY), -1, dtype=np.int64)
    found: list[Fitted | None] = []
    for step in range(steps):
        has = np.isfinite(weights[step, :, 0])
        found.append(Fitted(known.copy(), weights[step]) if has.any() else None)
        computing = modes[step] == Mode.COMPUTE
        known[computing, 1:] = known[computing, :-1]
        known[computing, 0] = step
    return found
