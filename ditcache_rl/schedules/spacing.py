"""Evenly spaced schedules, and schedules that are made to compute more or less."""

from __future__ import annotations

import numpy as np

from ditcache_rl.schedules.schedule import Schedule
from ditcache_rl.schedules.table import ScheduleTable
from ditcache_rl.types import Floats, Mode, Modes


def spaced(
    steps: int,
    sites: int,
    computes: int,
    *,
    between: Mode = Mode.FORECAST1,
    power: float = 1.0,
    ends: bool = False,
) -> Schedule:
    """Space full computes over the steps; a rest makes a step that computes its first sites.

    Args:
        steps: Denoising steps.
        sites: Parts of the block stack.
        computes: Site computes, at least those of the steps that always compute.
        between: Mode of the other steps.
        power: Below 1 the computed steps crowd at the end, above 1 at the start.
        ends: Whether the last step is always computed too.
    """
    modes = np.full((steps, sites), between, dtype=np.int8)
    whole, rest = divmod(computes, sites)
    if ends:
        grid, last = np.linspace(0, 1, whole), steps - 1
    else:
        # The last computed step lies before the last step: what is computed there is of no use to
        # others.
        grid, last = np.linspace(0, 1, whole + 1)[:-1], steps
    places = np.unique(np.round(grid**power * last).astype(int))
    others = np.setdiff1d(np.arange(steps), places)
    places = np.concatenate([places, others[: whole - len(places)]])
    modes[places] = Mode.COMPUTE
    if rest:
        free = np.setdiff1d(np.arange(steps), places)
        modes[free[len(free) // 2]] = first_sites(rest, sites)
    return Schedule(modes)


def spaced_table(sigmas: Floats, sites: int) -> ScheduleTable:
    """Space schedules of every number of computes evenly, with forecasts of order 1 between."""
    steps = len(sigmas) - 1
    every = range(sites, steps * sites + 1)
    return ScheduleTable.of(sigmas, (spaced(steps, sites, computes) for computes in every))


def first_sites(computes: int, sites: int) -> Modes:
    """Return the modes of a step that computes its first sites and forecasts the others."""
    return np.where(np.arange(sites) < computes, Mode.COMPUTE, Mode.FORECAST1).astype(np.int8)


def pay_up(schedule: Schedule, computes: int) -> Schedule:
    """Add computes, in the middle of the longest gaps, until there are so many."""
    modes, costs, sites = schedule.modes.copy(), schedule.costs.copy(), schedule.sites
    while (missing := computes - int(costs.sum())) > 0:
        free = np.flatnonzero(costs == 0)
        if len(free):
            taken = np.flatnonzero(costs > 0)
            before = free - taken[np.searchsorted(taken, free) - 1]
            after = np.append(taken, len(costs))[np.searchsorted(taken, free)] - free
            place = int(free[np.argmax(np.minimum(before, after))])
        else:  # every step computes something: complete the partial ones
            place = int(np.flatnonzero(costs < sites)[0])
        costs[place] = min(costs[place] + missing, sites)
        modes[place] = first_sites(int(costs[place]), sites)
    return schedule if (modes == schedule.modes).all() else Schedule(modes)


def cut_down(schedule: Schedule, computes: int) -> Schedule:
    """Take computes away, where gaps are shortest, until there are no more than so many.

    The first step goes on computing, and so does the last one if there is another to take.
    """
    modes, costs = schedule.modes.copy(), schedule.costs.copy()
    while costs.sum() > computes:
        computed = np.flatnonzero(costs > 0)
        gaps = np.diff([*computed, len(costs)])
        around = gaps[:-1] + gaps[1:]  # what a gap would be without the computed step within it
        if computed[-1] == len(costs) - 1 and len(around) > 1:
            around = around[:-1]
        place = computed[1 + int(np.argmin(around))]
        modes[place] = modes[place - 1] if costs[place - 1] == 0 else Mode.FORECAST1
        costs[place] = 0
    return schedule if (modes == schedule.modes).all() else Schedule(modes)
