"""Fit solvers whose times are free to what full compute ends with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.free import FreeLoop, FreeRun, FreeSolver
from ditcache_rl.search.equations import normal_equations
from ditcache_rl.types import Floats

#: Change of a number by which its effect is measured: float32 tells it to a thousandth.
_NUDGE = 1e-3
#: Share of a number's own curvature that is added: at first, the factor that a step that fails
#: multiplies it by, and how many are tried. It is divided by the same after one that succeeds.
_DAMPING, _HARDER, _TRIES = 1e-3, 8.0, 4
#: Squared errors below this count as this.
_TINY = 1e-12


def fit(
    loops: Sequence[FreeLoop],
    solver: FreeSolver,
    free: Sequence[str],
    *,
    rounds: int,
    images: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> FreeSolver:
    """Bring what a solver ends with near to full compute: Gauss-Newton, damped.

    Every case counts by its relative error, so that the mean of decibels is what is minimized.

    Args:
        loops: Cases to fit to.
        solver: Where to start.
        free: Which of `times`, `keeps` and `updates` may move.
        rounds: Steps at most; each costs a run for every number that may move.
        images: Whether decoded images are compared, and not latents.
        say: Hears the error of every step.
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
        gram, moment = sum(s[0] for s in sides), sum(s[1] for s in sides)
        before = error
        for _ in range(_TRIES):
            curvature = np.diag(damping * np.diag(gram) + _TINY)
            step = np.asarray(np.linalg.solve(gram + curvature, moment))
            tried = moved(solver, places, step)
            found = [loop.run(tried, decode=images) for loop in loops]
            if _error(loops, found) < error:
                solver, traces, error = tried, found, _error(loops, found)
                damping /= _HARDER
                break
            damping *= _HARDER
        say(f"{-10 * error / np.log(10):.3f} dB, damping {damping:.0e}")
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
    return (loop.target if trace.images is None else loop.images).flatten(1).double()


def _error(loops: Sequence[FreeLoop], traces: Sequence[FreeRun]) -> float:
    """Return the mean logarithm of the squared error."""
    wrong = [
        (_goal(loop, trace) - _end(trace)).square().mean(dim=1).clamp_min(_TINY)
        for loop, trace in zip(loops, traces, strict=True)
    ]
    return float(torch.cat(wrong).log().mean())
