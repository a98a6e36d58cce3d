"""Carry schedules over to another number of steps, at budgets of one's own choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ditcache_rl.schedules import Leveled, carry_plans
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search.space import Space, cut_down, pay_up
from ditcache_rl.types import Floats


def rescale_plan(
    plan: Plan, sigmas: Floats, new_sigmas: Floats, *, sites: int, budgets: Sequence[int]
) -> Plan:
    """Move every schedule to the steps of another run, and make some spend what is asked for.

    Where nothing that is carried spends just that, computed steps are added in the longest gaps of
    the schedule that spends most nearly as much, or taken where gaps are shortest.

    Args:
        plan: Schedules of the old run.
        sigmas: (steps + 1,) noise levels of the old run.
        new_sigmas: (new steps + 1,) noise levels of the new run.
        sites: Parts of the block stack.
        budgets: Site computes of the new run, each at least `sites`.

    Returns:
        What `carry_plans` does, and a schedule for every budget; none of them scored.
    """
    carried = carry_plans([Leveled(plan, sigmas)], new_sigmas, sites=sites)
    carried.quality[:] = np.nan
    patterns = Space(len(new_sigmas) - 1, sites).patterns
    known = np.flatnonzero(carried.patterns[:, 0] >= 0)
    for budget in set(budgets) - set(known.tolist()):
        row = carried.patterns[known[np.abs(known - budget).argmin()]]
        carried.patterns[budget] = pay_up(cut_down(row, budget, patterns), budget, patterns)
    return carried
