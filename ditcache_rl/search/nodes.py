"""Computed steps, and the weights of the forecasts between them, of schedules of one site."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ditcache_rl.instrument.forecast import newton_weights
from ditcache_rl.search.space import Row
from ditcache_rl.types import HISTORY, Floats, Mode

Nodes = tuple[int, ...]
"""The steps that a schedule computes, ascending, the first one 0."""


def nodes_of(row: Row) -> Nodes:
    """Return the steps that a schedule of one site computes."""
    return tuple(np.flatnonzero(row == Mode.COMPUTE).tolist())


def row_of(nodes: Nodes, steps: int) -> Row:
    """Fill the steps between computed ones with the mode that uses all that is known there."""
    computed = np.isin(np.arange(steps), nodes)
    known = np.minimum(computed.cumsum(), HISTORY)
    return np.where(computed, int(Mode.COMPUTE), known).astype(np.int64)


def weights_of(nodes: Nodes, sigmas: Floats, extra: Floats) -> Floats:
    """Write the weights of every step: (steps, HISTORY), nan at computed steps.

    Args:
        nodes: Computed steps.
        sigmas: (steps + 1,) noise levels.
        extra: (nodes, HISTORY) what is added to Newton's weights in the gap after each.
    """
    steps = len(sigmas) - 1
    table = np.full((steps, HISTORY), np.nan)
    for gap, (node, stop) in enumerate(itertools.pairwise((*nodes, steps))):
        known = nodes[: gap + 1][::-1][:HISTORY]
        for step in range(node + 1, stop):
            table[step] = newton(known, sigmas, step) + extra[gap]
    return table


def newton(known: Sequence[int], sigmas: Floats, step: int) -> Floats:
    """Return the weights of a line through the last two computed steps, newest first."""
    order = min(1, len(known) - 1)
    return newton_weights(sigmas[list(known)], float(sigmas[step]), order)
