"""Enumerate every schedule of a short run as a tree that shares what schedules have in common.

With the first step computed and one way to fill the steps that are not, T steps have 2^(T-1)
schedules. Schedules that agree up to a step share everything up to there, so all of them together
take 2^(T-1) computed steps per image, where one by one they would take (T + 1) * 2^(T-2).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.schedules.forecast import newton_coefficients, weighted_sum
from ditcache_rl.types import HISTORY, Floats, Mode, Modes


def tree_schedules(steps: int, between: Mode) -> Modes:
    """List the schedules of a tree: (2^(T-1), T); bit s - 1 of the index computes step s."""
    codes = np.arange(1 << (steps - 1))
    modes = np.full((len(codes), steps), between, dtype=np.int8)
    modes[:, 0] = Mode.COMPUTE
    computed = codes[:, None] >> np.arange(steps - 1) & 1
    modes[:, 1:][computed == 1] = Mode.COMPUTE
    return modes


def tree_index(modes: Modes) -> NDArray[np.int64]:
    """Invert `tree_schedules`: (..., T) modes to (...) indices."""
    computed = (modes[..., 1:] == Mode.COMPUTE).astype(np.int64)
    return np.asarray((computed << np.arange(computed.shape[-1])).sum(axis=-1))


@torch.no_grad()
def grow_tree(
    board: Board,
    case: Case,
    between: Mode,
    *,
    rows: int = 16,
    on_rows: Callable[[int], None] | None = None,
) -> Tensor:
    """Run one image under every schedule of a tree, the block stack being one site.

    Args:
        board: Pipeline and steps.
        case: What to draw.
        between: What a step does that is not computed.
        rows: Most rows of one call of the transformer.
        on_rows: Hears how many rows were computed.

    Returns:
        (2^(T-1), ...) final latents in the order of `tree_schedules`.
    """
    depth = between  # reuse needs one residual, a forecast of order m needs m + 1
    with Replay(board, [case]) as replay:
        latents, sigmas = replay.start(), replay.sigmas
        #: Residuals that every node knows, newest first, and their noise levels; nan for none.
        history: list[Tensor] = []
        known = np.full((1, HISTORY), np.nan)
        for step in range(board.steps):
            skipped = latents
            if step:
                coefficients = _coefficients(known, float(sigmas[step]), between)
                estimates = weighted_sum(history, coefficients)
                outputs = [
                    replay.estimate(step, few, own)
                    for few, own in zip(
                        torch.split(latents, rows), torch.split(estimates, rows), strict=True
                    )
                ]
                skipped = replay.advance(step, torch.cat(outputs), latents)
            pieces = []
            for start in range(0, len(latents), rows):
                pieces.append(replay.compute(step, latents[start : start + rows]))
                if on_rows is not None:
                    on_rows(len(pieces[-1][0]))
            output, residual = (torch.cat(column) for column in zip(*pieces, strict=True))
            latents = replay.advance(step, output, latents)
            # Where nothing older is known its coefficient is zero, and the newest stands in.
            grown = [residual, *(history or [residual])][:depth]
            deeper = np.concatenate([np.full((len(known), 1), sigmas[step]), known[:, :-1]], axis=1)
            if step:
                latents = torch.cat([skipped, latents])
                grown = [
                    torch.cat([history[min(k, len(history) - 1)], fresh])
                    for k, fresh in enumerate(grown)
                ]
                deeper = np.concatenate([known, deeper])
            history, known = grown, deeper
    return latents


def _coefficients(known: Floats, sigma: float, mode: Mode) -> Floats:
    """Weigh the residuals as the runner does, the order lowered to what each node knows."""
    orders = np.minimum(mode - Mode.REUSE, np.isfinite(known).sum(axis=1) - 1)
    return np.stack(
        [newton_coefficients(past, sigma, int(m)) for past, m in zip(known, orders, strict=True)]
    )
