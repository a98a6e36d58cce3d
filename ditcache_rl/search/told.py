"""Fit the numbers of a solver, and the times that it tells, to what full compute ends with.

What a run of few steps ends with is nearer to full compute where told times may lie off the grid of
steps, even above pure noise.

Source: the forms of DyWeight (arXiv 2603.11607), which learns such sums together with the scale of
the model's time, and of S4S (arXiv 2502.17423), which learns them to images; there by descent,
here by Gauss-Newton steps on what a run ends with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.search.equations import normal_equations, solve, squares
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop, FreeRun
from ditcache_rl.types import Floats

#: Change of a number by which its effect is measured: float32 tells it to a thousandth.
_NUDGE = 1e-3
#: Share of a number's own curvature that is added: at first, the factor that a step that fails
#: multiplies it by, and how many are tried. It is divided by the same after one that succeeds.
_DAMPING, _HARDER, _TRIES = 1e-3, 8.0, 4


def fit_solver(
    loops: Sequence[FreeLoop],
    solver: FreeSolver,
    free: Sequence[str],
    *,
    rounds: int,
    images: bool = False,
) -> FreeSolver:
    """Bring what a solver ends with near to full compute: Gauss-Newton, damped.

    Every case counts by its relative error, so that the mean of decibels is what is minimized.

    Args:
        loops: Cases to fit to.
        solver: Where to start.
        free: Which of `times`, `keeps` and `updates` may move.
        rounds: Steps at most; each costs a run for every number that may move. A time that is
            told stays above zero.
        images: Whether decoded images are compared, and not latents.
    """
    damping = _DAMPING
    traces = [loop.run(solver, decode=images) for loop in loops]
    error = _error(loops, traces)
    for _ in range(rounds):
        places = numbers(solver, free)
        sides = [
            _sides(loop, trace, solver, places, images=images)
            for loop, trace in zip(loops, traces, strict=True)
        ]
        gram, moment = (np.sum(parts, axis=0) for parts in zip(*sides, strict=True))
        before = error
        for _ in range(_TRIES):
            tried = moved(solver, places, solve(gram, moment, damping))
            if (tried.times > 0).all():  # there is no noise level below
                found = [loop.run(tried, decode=images) for loop in loops]
                left = _error(loops, found)
                if left < error:
                    solver, traces, error = tried, found, left
                    damping /= _HARDER
                    break
            damping *= _HARDER
        if before - error < 1e-3:  # 0.004 dB
            break
    return solver


#: One number of a solver: the name of its array, and where it is there.
Place = tuple[str, tuple[int, ...]]


def numbers(solver: FreeSolver, free: Sequence[str]) -> list[Place]:
    """List the numbers of some arrays of a solver."""
    steps, history = solver.updates.shape
    every: dict[str, list[tuple[int, ...]]] = {
        "times": [(k,) for k in range(steps)],
        "keeps": [(k,) for k in range(steps)],
        "updates": [(k, back) for k in range(steps) for back in range(min(k + 1, history))],
    }
    return [(name, at) for name in free for at in every[name]]


def moved(solver: FreeSolver, places: Sequence[Place], step: Floats) -> FreeSolver:
    """Return a solver with something added to some of its numbers."""
    arrays = {name: value.copy() for name, value in solver._asdict().items()}
    for (name, at), change in zip(places, step, strict=True):
        arrays[name][at] += change
    return FreeSolver(**arrays)


def relative_curvature(loop: FreeLoop, solver: FreeSolver, places: Sequence[Place]) -> Floats:
    """Tell what a unit of each number does: its square over that of what is lacking, on average."""
    run = loop.run(solver)
    gram, _ = _sides(loop, run, solver, places, images=False)
    return np.diag(gram) / run.latents[-1].numel()


def _sides(
    loop: FreeLoop, trace: FreeRun, solver: FreeSolver, places: Sequence[Place], *, images: bool
) -> tuple[Floats, Floats]:
    """Return both sides of the normal equations."""
    end, effects = _end(trace), []
    for name, at in places:
        nudged = moved(solver, [(name, at)], np.array([_NUDGE]))
        first = at[0] + (name != "times")
        other = loop.run(nudged, known=trace, first=first, decode=images)
        effects.append((_end(other) - end) / _NUDGE)
    return normal_equations(torch.stack(effects, dim=2), _goal(loop, trace) - end)


def _end(trace: FreeRun) -> Tensor:
    return (trace.latents[-1] if trace.images is None else trace.images).flatten(1).double()


def _goal(loop: FreeLoop, trace: FreeRun) -> Tensor:
    return (loop.target if trace.images is None else loop.full.decoded).flatten(1).double()


def _error(loops: Sequence[FreeLoop], traces: Sequence[FreeRun]) -> float:
    """Return the mean logarithm of the squared error."""
    wrong = [
        squares(_goal(loop, trace) - _end(trace)) for loop, trace in zip(loops, traces, strict=True)
    ]
    return float(torch.cat(wrong).log().mean())
