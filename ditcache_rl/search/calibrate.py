"""Measure on a few prompts what skipping a step would do, with nothing but full compute at hand.

Every table holds the mean over the prompts. The block stack is one site here: which steps compute
is what these tables tell, not which part of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.schedules.forecast import newton_coefficients, weighted_sum
from ditcache_rl.types import HISTORY, Floats, Mode

#: Ways to fill a skipped step that two computed steps can tell of.
CALIBRATED = (Mode.REUSE, Mode.FORECAST1)


class Products(NamedTuple):
    """What a calibration measures; everything else follows from it."""

    gram: Floats
    """(cases, T, T) inner products of the stack's residuals at all steps of full compute."""
    sigmas: Floats
    """(T + 1,) noise levels."""


class ErrorTable(NamedTuple):
    """Errors of the stack's residual, were it reused or forecast, by the steps it comes from."""

    relative: dict[Mode, Floats]
    """(T, T, T) |estimate - residual| / |residual| at step t from steps i < j < t, at [i, j, t];
    i = j where only one is known; inf where the order of the steps is another."""
    displacement: dict[Mode, Floats]
    """The same, not divided, times the step that the sampler takes: in units of the latents."""

    @classmethod
    def of(cls, products: Products) -> ErrorTable:
        """Tell every estimate's error without forming it.

        Source: the tables of DPCache (arXiv 2602.22654) and SmoothCache (arXiv 2411.10510), here
        from inner products.
        """
        gram, sigmas = products
        steps = gram.shape[1]
        norms = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
        moves = np.abs(np.diff(sigmas))
        table = cls(
            {mode: np.full((steps,) * 3, np.inf) for mode in CALIBRATED},
            {mode: np.full((steps,) * 3, np.inf) for mode in CALIBRATED},
        )
        for step in range(1, steps):
            for newest in range(step):
                for older in range(newest + 1):
                    for mode in CALIBRATED:
                        order = min(mode - Mode.REUSE, int(older < newest))
                        levels = np.array([sigmas[newest], sigmas[older]])
                        coefficients = newton_coefficients(levels, float(sigmas[step]), order)
                        places = [step, newest, older]
                        signed = np.array([-1.0, *coefficients[:2]])
                        part = gram[:, places][:, :, places]
                        error = np.sqrt(
                            np.maximum(np.einsum("i,cij,j->c", signed, part, signed), 0)
                        )
                        at = (older, newest, step)
                        table.relative[mode][at] = (error / norms[:, step]).mean()
                        table.displacement[mode][at] = error.mean() * moves[step]
        return table


def measure_products(board: Board, cases: Sequence[Case]) -> Products:
    """Draw cases with everything computed, and compare every residual with the others."""
    with Replay(board, cases) as replay:
        return products_of([replay])


@torch.no_grad()
def products_of(replays: Sequence[Replay]) -> Products:
    """Compare the residuals of cases that were recorded; each replay must have been entered."""
    grams = []
    for replay in replays:
        stacked = torch.stack([one.float() for one in _residuals(replay)], dim=1)
        grams.append((stacked @ stacked.transpose(1, 2)).double().cpu().numpy())
    return Products(np.concatenate(grams), replays[0].sigmas)


def _residuals(replay: Replay) -> list[Tensor]:
    """Return what is cached at every step of full compute: (rows, features) each."""
    if replay.linear:  # nothing is computed: what the scheduler was given is what is cached
        return [output.flatten(1) for output in replay.outputs()]
    latents = replay.recorded()[:-1]
    return [replay.compute(step, before)[1] for step, before in enumerate(latents)]


def fitted_gap_costs(products: Products) -> Floats:
    """Tell what every gap alone would lack, were the coefficients of its estimates fitted to it.

    All steps of a gap share the coefficients of the last two residuals; a step moves the latents by
    its residual times the change of the noise level.

    Returns:
        (T, T, T + 1) mean square, over the cases, of what the latents lack at the end of the gap,
        as `paths.cheapest_path` takes it.
    """
    inner, moves = products.gram.mean(axis=0), np.diff(products.sigmas)
    steps, moved = len(inner), inner * moves
    costs = np.zeros((steps, steps, steps + 1))
    for newest in range(steps - 1):
        skipped = slice(newest + 1, steps)
        sums = moved[:, skipped].cumsum(axis=1)  # of residuals with the moves of a gap, by its end
        between = moves[skipped, None] * moved[skipped, skipped]
        squares = np.diag(between.cumsum(axis=0).cumsum(axis=1))
        for older in range(newest + 1):
            known = sorted({older, newest})
            fitted = np.linalg.lstsq(inner[np.ix_(known, known)], sums[known])[0]
            explained = (sums[known] * fitted).sum(axis=0)
            costs[older, newest, newest + 2 :] = np.maximum(squares - explained, 0.0)
    return costs


def gap_costs(errors: Floats, *, power: float = 1.0) -> Floats:
    """Add up the errors of the skipped steps of every gap.

    Args:
        errors: (T, T, T) as in `ErrorTable`.
        power: Above 1 large errors count more than their sum says.

    Returns:
        (T, T, T + 1) costs as `paths.cheapest_path` takes them.
    """
    steps = len(errors)
    costs = np.zeros((steps, steps, steps + 1))
    for newest in range(steps):
        inside = errors[: newest + 1, newest, newest + 1 :] ** power
        costs[: newest + 1, newest, newest + 2 :] = inside.cumsum(axis=1)
    return costs


@torch.no_grad()
def measure_gaps(
    board: Board,
    cases: Sequence[Case],
    between: Mode,
    *,
    longest: int,
    on_step: Callable[[int], None] | None = None,
) -> Floats:
    """Measure what one gap alone does to the final latents, everything else being computed.

    Args:
        board: Pipeline and steps.
        cases: What is drawn, one after the other.
        between: How the gap is filled.
        longest: Most skipped steps of a gap that is measured.
        on_step: Hears how many steps were taken, of `steps` per case.

    Returns:
        (T, T + 1) mean absolute error of the final latents when the steps between computed step j
        and the next computed step k are skipped; gaps beyond `longest` are inf.

    Source: the edges of LeMiCa (arXiv 2511.00090).
    """
    total = np.zeros((board.steps, board.steps + 1))
    for case in cases:
        total += _gaps_of(board, case, between, longest, on_step)
    return total / len(cases)


#: Runs that skip, by the step they left at: latents, and the residuals they started from.
_Skipping = dict[int, tuple[Tensor, list[Tensor]]]


class _Branch(NamedTuple):
    """A run that has left the reference after step `start`."""

    start: int
    stop: int
    """Step from which on it computes again."""


def _gaps_of(
    board: Board,
    case: Case,
    between: Mode,
    longest: int,
    on_step: Callable[[int], None] | None,
) -> Floats:
    edges = np.full((board.steps, board.steps + 1), np.inf)
    edges[np.arange(board.steps), np.arange(1, board.steps + 1)] = 0.0
    with Replay(board, [case]) as replay:
        reference = replay.start()
        history: list[Tensor] = []
        skipping: _Skipping = {}
        resumed: list[_Branch] = []
        latents = reference[:0]
        for step in range(board.steps):
            # Every run that skipped so far may compute again from here on.
            joined = [_Branch(start, step) for start in skipping]
            resumed += joined
            latents = torch.cat([latents, *(skipping[b.start][0] for b in joined)])
            if step and longest:
                skipping[step - 1] = reference, list(history)
            skipping = _leave_out(
                replay, step, {b: r for b, r in skipping.items() if step - b <= longest}, between
            )
            rows = torch.cat([reference, latents])
            output, residual = replay.compute(step, rows)
            rows = replay.advance(step, output, rows)
            reference, latents = rows[:1], rows[1:]
            history = [residual[:1], *history][:HISTORY]
            if on_step is not None:
                on_step(1)
        for branch, final in zip(resumed, latents, strict=True):
            edges[branch.start, branch.stop] = float((final - reference[0]).abs().mean())
        for start, (own, _) in skipping.items():
            edges[start, board.steps] = float((own - reference).abs().mean())
    return edges


def _leave_out(replay: Replay, step: int, runs: _Skipping, between: Mode) -> _Skipping:
    """Take a step in all runs that skip it."""
    if not runs:
        return runs
    estimates = torch.cat(
        [_estimate(replay, step, known, newest, between) for newest, (_, known) in runs.items()]
    )
    latents = torch.cat([own for own, _ in runs.values()])
    moved = replay.advance(step, replay.estimate(step, latents, estimates), latents)
    return {
        newest: (own[None], known)
        for own, (newest, (_, known)) in zip(moved, runs.items(), strict=True)
    }


def _estimate(replay: Replay, step: int, known: list[Tensor], newest: int, between: Mode) -> Tensor:
    """Estimate the residual of a step; `known` are those of step `newest` and before."""
    sigmas = replay.sigmas
    order = min(between - Mode.REUSE, len(known) - 1)
    levels = sigmas[newest - np.arange(min(HISTORY, newest + 1))]
    coefficients = newton_coefficients(levels, float(sigmas[step]), order)
    return weighted_sum(known, coefficients[None])
