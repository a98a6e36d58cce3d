"""What is learned from full compute: L2P, DyWeight and S4S-Alt, and updates of our schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from benchmarks.peers.contender import Setup
from benchmarks.peers.linear import l2p_solvers
from ditcache_rl.bench import Case
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.evaluate import silent
from ditcache_rl.schedules import ScheduleTable
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.search.refit import refit
from ditcache_rl.search.told import fit_solver
from ditcache_rl.solver import CollapsedFlowMatchScheduler, applied, collapsed_scheduler
from ditcache_rl.types import Floats

#: Computed steps of solvers of either kind. Free times cost a run for every number of theirs.
LEARNED_COMPUTES = (12, 9, 7, 6, 5, 4, 3, 2)
FREE_COMPUTES = (12, 9, 7, 5, 4, 3, 2)
#: The policy's schedules with updates that are fitted besides, and how many they compute.
FITTED, FITTED_COMPUTES = "policy, fitted", (14, 12, 10, 9, 8, 7, 6, 5, 4, 3, 2)
#: Images of a call of these fits.
_ROWS = 32
#: Outputs that an update weighs, where there are as many.
_HISTORY = 3
#: Gauss-Newton steps of a fit, and times that S4S-Alt takes turns.
_ROUNDS, _TURNS = 3, 2


def learned(
    name: str,
    pipe: Any,
    steps: int,
    call: dict[str, Any],
    cases: Sequence[Case],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Learn the solvers of a contender, as a file holds them; none where a pipeline is none for it.

    Args:
        name: One of `LEARNERS`.
        pipe: The pipeline.
        steps: Denoising steps of the reference.
        call: Further arguments of its call.
        cases: That solvers are learned from.
        say: Hears why there are none.
    """
    try:
        if name == "L2P":
            return l2p_solvers(pipe, steps, call, cases, _fewer(LEARNED_COMPUTES, steps))
        found: dict[str, Any] = {}
        with silent(pipe):
            loop = FreeLoop(pipe, cases, steps=steps, call=call)
            for count in _fewer(FREE_COMPUTES, steps):
                levels, history = loop.levels(count), min(_HISTORY, count)
                starts = [adams(levels, history, order) for order in (1, 2)]
                start = max(starts, key=lambda solver: loop.psnr(solver).mean())
                found[str(count)] = FREE[name](loop, start).write()
    except UnsupportedModelError as error:
        say(f"without {name}: {error}")
        return {}
    return found


def fitted(
    pipe: Any,
    call: dict[str, Any],
    cases: Sequence[Case],
    select: Sequence[Case],
    table: ScheduleTable,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Fit a policy's schedules as `ditcache-rl export --fit` does, as a file holds them.

    Args:
        pipe: The pipeline.
        call: Further arguments of its call.
        cases: What is fitted to.
        select: What tells whether anything is gained.
        table: Schedules of the whole denoiser at the steps of the reference.
        say: Hears how each was fitted.
    """
    found = {}
    with silent(pipe):
        train, judged = (
            FreeLoop.of(pipe, part, steps=table.steps, call=call, rows=_ROWS)
            for part in (cases, select)
        )
        for count in sorted(set(FITTED_COMPUTES) & set(table)):
            made = collapsed_scheduler(pipe.scheduler, table[count].schedule, table.sigmas)
            best = refit(made.collapsed, train, judged).best
            if best is not None:
                made = made.following(best.collapsed)
                say(f"{FITTED}, {count} computed: {best.way}, {best.gain.mean:+.2f} dB")
            found[str(count)] = dict(made.config)
    return found


def fitted_key(table: ScheduleTable) -> str:
    """Name what was fitted of these schedules: a policy that was trained anew has others."""
    texts = "".join(table[count].schedule.text for count in sorted(table))
    return f"{FITTED} {sha256(texts.encode()).hexdigest()[:12]}"


def fitted_scheduler(setup: Setup, value: int) -> dict[str, Any]:
    """Run one of the policy's schedules under its fitted scheduler, chosen by computed steps."""
    config = setup.schedulers.get(value)
    if config is None:
        raise ConfigError(f"expected a scheduler of {value} computed steps for {FITTED}")
    return {"applied": partial(applied, scheduler=CollapsedFlowMatchScheduler.from_config(config))}


def _fewer(counts: Sequence[int], steps: int) -> list[int]:
    return [count for count in counts if count < steps]


def dyweight(loop: FreeLoop, start: FreeSolver) -> FreeSolver:
    """Fit what outputs are weighed with together with the times that the denoiser is told.

    Source: DyWeight (arXiv 2603.11607): multistep weights of every step, which need not sum to its
    length, learned with the scale of the model's time; there by descent along trajectories, here by
    Gauss-Newton steps on what they end with.
    """
    return fit_solver([loop], start, ["updates", "times"], rounds=_ROUNDS)


def s4s_alt(loop: FreeLoop, start: FreeSolver) -> FreeSolver:
    """Fit coefficients and times in turn, to decoded images.

    Source: S4S-Alt (arXiv 2502.17423), which learns to end where a fine solver ends; without its
    tolerance for other initial noise, as images are compared with those of the same noise here.
    """
    for _ in range(_TURNS):
        for free in ("updates", "times"):
            start = fit_solver([loop], start, [free], rounds=1, images=True)
    return start


#: How a solver with free times is learned, by contender; and all that learn one.
FREE: dict[str, Callable[[FreeLoop, FreeSolver], FreeSolver]] = {
    "DyWeight-like": dyweight,
    "S4S-Alt-like": s4s_alt,
}
LEARNERS = ("L2P", *FREE)


def adams(levels: Floats, history: int, order: int) -> FreeSolver:
    """Return the method of Adams and Bashforth over uneven noise levels.

    Its first step is of first order; later entries of the history are zero.

    Args:
        levels: (K + 1,), where it ends last.
        history: Outputs that an update has room for, at least `order`.
        order: 1, which is Euler's method, or 2.
    """
    moves = np.diff(levels)
    updates = np.zeros((len(moves), history))
    updates[:, 0] = moves
    if order == 2:
        slope = moves[1:] ** 2 / (2 * moves[:-1])
        updates[1:, 0] += slope
        updates[1:, 1] -= slope
    return FreeSolver(np.asarray(levels[:-1]), np.ones(len(moves)), updates)
