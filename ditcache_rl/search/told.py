"""Fit the times that a denoiser is told, together with what outputs are weighed with.

A collapsed schedule tells the times of its computed steps. What a run of few steps ends with is
nearer to full compute where those may lie off the grid of steps, even above pure noise; with more
computed the coefficients alone gain as much or more, so both are judged.

Source: the form of DyWeight (arXiv 2603.11607), which learns such sums together with the scale of
the model's time; there by descent along trajectories, here by Gauss-Newton steps on what they end
with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench import Case
from ditcache_rl.errors import ConfigError
from ditcache_rl.interval import Interval, mean_interval
from ditcache_rl.schedules.collapse import Collapsed
from ditcache_rl.schedules.table import is_at
from ditcache_rl.search.equations import normal_equations, solve, squares
from ditcache_rl.search.free import FreeLoop, FreeRun, FreeSolver
from ditcache_rl.types import HISTORY, UNSEEN, Floats, Progress

#: Gauss-Newton steps; with two computed the fourth gains nothing any more.
_ROUNDS = 4
#: What is fitted one after the other, each from where the one before ended.
_FREE = {"coefficients": ("updates",), "coefficients and told times": ("times", "updates")}
#: Change of a number by which its effect is measured: float32 tells it to a thousandth.
_NUDGE = 1e-3
#: Share of a number's own curvature that is added: at first, the factor that a step that fails
#: multiplies it by, and how many are tried. It is divided by the same after one that succeeds.
_DAMPING, _HARDER, _TRIES = 1e-3, 8.0, 4


class FittedUpdates(NamedTuple):
    """What was fitted of a collapsed schedule, and what it is worth."""

    free: str
    """What was fitted, in words."""
    collapsed: Collapsed
    found_db: float
    """Mean PSNR on the select prompts."""
    gain: Interval
    """Of the PSNR of a prompt over the schedule as it was."""


class ToldTimes(NamedTuple):
    """Coefficients fitted alone and together with told times, beside what they started from."""

    own_db: float
    """Mean PSNR on the select prompts as it was."""
    fitted: tuple[FittedUpdates, ...]

    @property
    def best(self) -> FittedUpdates | None:
        """The best of those whose interval of what is gained lies above zero; None without any."""
        sure = [one for one in self.fitted if one.gain.low > 0]
        return max(sure, key=lambda one: one.found_db, default=None)


def told_times(
    pipe: Any,
    collapsed: Collapsed,
    train: Sequence[Case],
    select: Sequence[Case],
    *,
    call: Mapping[str, Any],
    rows: int,
    progress: Progress = UNSEEN,
) -> ToldTimes:
    """Fit the updates of a collapsed schedule, and from there also the times that it tells.

    Args:
        pipe: Of one denoiser, with the flow-matching sampler that was collapsed.
        collapsed: Where to start.
        train: What is fitted to.
        select: What tells whether anything is gained.
        call: Further arguments of the pipeline's call.
        rows: Most images of a call.
        progress: Hears how far it has come.

    Raises:
        ConfigError: If the pipeline has other noise levels.
        UnsupportedModelError: If it is of another kind.
    """
    steps = len(collapsed.sigmas) - 1

    def loops(cases: Sequence[Case]) -> list[FreeLoop]:
        parts = [cases[start : start + rows] for start in range(0, len(cases), rows)]
        return [FreeLoop(pipe, part, steps=steps, call=call) for part in parts]

    progress.expect(_ROUNDS * len(_FREE) + 2)
    progress.stage("full compute of train prompts")
    drawn = loops(train)
    if not is_at(collapsed.sigmas, drawn[0].sigmas):
        raise ConfigError(
            f"expected a pipeline with the noise levels of the schedule, {collapsed.sigmas}, "
            f"received {drawn[0].sigmas}; take the environment that the policy was made for"
        )
    progress.advance(1)
    solvers = [FreeSolver.of(collapsed, HISTORY)]
    for done, (what, free) in enumerate(_FREE.items(), start=1):
        progress.stage(f"fit {what}")
        found = fit_solver(
            drawn, solvers[-1], free, rounds=_ROUNDS, on_round=lambda: progress.advance(1)
        )
        solvers.append(found)
        progress.reach(1 + done * _ROUNDS)
    progress.stage("full compute of select prompts")
    judged = loops(select)
    own, *others = (np.concatenate([one.psnr(each) for one in judged]) for each in solvers)
    progress.reach(_ROUNDS * len(_FREE) + 2)
    return ToldTimes(
        float(own.mean()),
        tuple(
            FittedUpdates(
                what, solver.within(collapsed), float(psnr.mean()), mean_interval(psnr - own)
            )
            for what, solver, psnr in zip(_FREE, solvers[1:], others, strict=True)
        ),
    )


def fit_solver(
    loops: Sequence[FreeLoop],
    solver: FreeSolver,
    free: Sequence[str],
    *,
    rounds: int,
    images: bool = False,
    on_round: Callable[[], None] = lambda: None,
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
        on_round: Hears of every step.
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
        on_round()
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
        squares(_goal(loop, trace) - _end(trace)) for loop, trace in zip(loops, traces, strict=True)
    ]
    return float(torch.cat(wrong).log().mean())
