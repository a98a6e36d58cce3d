"""Carry schedules over to another number of steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.control import Plan
from ditcache_rl.control.patterns import pattern_costs, step_patterns
from ditcache_rl.search.space import pay_up
from ditcache_rl.types import Floats, Mode


def rescale_plan(plan: Plan, sigmas: Floats, new_sigmas: Floats, *, sites: int) -> Plan:
    """Move every schedule to the steps of another run, by noise level.

    The computed steps of the schedule with the nearest share of compute go to the steps that are
    nearest in sigma, the first to the first and the last to the last; what is missing to the
    budget is added in the longest gaps, what is too much is taken where gaps are shortest.

    Args:
        plan: Schedules of the old run.
        sigmas: (steps + 1,) noise levels of the old run.
        new_sigmas: (new steps + 1,) noise levels of the new run.
        sites: Parts of the block stack.

    Returns:
        A schedule for every budget of the new run down to the least share of the old one; not
        scored, and without fitted weights: those are good for the old steps alone.
    """
    steps, new_steps = len(sigmas) - 1, len(new_sigmas) - 1
    nearest = np.abs(new_sigmas[:-1, None] - sigmas[None, :-1]).argmin(axis=1)
    forth = np.abs(new_sigmas[None, :-1] - sigmas[:-1, None]).argmin(axis=1)
    forth[0], forth[-1] = 0, new_steps - 1
    known = np.flatnonzero(plan.patterns[:, 0] >= 0)
    carried = Plan.empty(new_steps * sites, new_steps)
    least = max(sites, plan.least * new_steps // steps)
    for budget in range(least, new_steps * sites + 1):
        source = plan.patterns[known[np.abs(known * new_steps / steps - budget).argmin()]]
        carried.patterns[budget] = _carry(source, forth, nearest, budget, step_patterns(sites))
    return carried


def _carry(
    source: NDArray[np.int64],
    forth: NDArray[np.int64],
    nearest: NDArray[np.int64],
    budget: int,
    patterns: NDArray[np.int8],
) -> NDArray[np.int64]:
    """Carry one schedule and make it spend the budget exactly."""
    costs = pattern_costs(patterns)
    between = source.copy()
    for step in np.flatnonzero(costs[source] > 0):
        later = np.flatnonzero(costs[source[step:]] == 0)
        between[step] = source[step + later[0]] if len(later) else Mode.FORECAST1
    row = between[nearest]
    for step in np.flatnonzero(costs[source] > 0):
        row[forth[step]] = source[step]
    while costs[row].sum() > budget:
        computed = np.flatnonzero(costs[row] > 0)[1:]
        edges = np.concatenate([[0], computed, [len(row)]])
        gaps = edges[2:] - edges[:-2]
        if costs[source[-1]] > 0 and len(computed) > 1:
            gaps = gaps[:-1]  # what computes the last step goes on doing so
        place = computed[np.argmin(gaps)]
        row[place] = between[nearest[place]]
    return pay_up(row, budget, patterns)
