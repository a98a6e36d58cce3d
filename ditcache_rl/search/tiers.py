"""Choose beforehand where a schedule keeps what it computes, in a world whose memory moves.

Nothing is drawn: where entries lie changes no image as long as none is lost, and what is lost is
computed, which is charged as time. What the cache does with a schedule that it knows is what every
choice is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ditcache_rl.bench import MemoryWorld, bill_of
from ditcache_rl.interval import mean_interval
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Floats, Tier, Tiers

#: Passes over the steps; the second changes little, a third nothing that was seen.
_PASSES = 2

Charge = Callable[[Schedule], Floats]
"""Says what a schedule costs in each of some worlds."""


def charge_in(
    memory: MemoryWorld, seeds: Sequence[int], *, wait_weight: float, memory_weight: float
) -> Charge:
    """Charge schedules for time and memory, as the reward does.

    Args:
        memory: The world.
        seeds: How its caps move, one world each.
        wait_weight: On time over that of full compute.
        memory_weight: On device bytes.
    """

    def charge(schedule: Schedule) -> Floats:
        images = [memory.play(schedule, seed) for seed in seeds]
        done = np.stack([np.stack(image.modes) for image in images], axis=1)
        bill = bill_of(images)
        time_share = memory.cost.share_of_reference(done) + bill.wait_share
        return wait_weight * time_share + memory_weight * bill.resident_share

    return charge


def place(schedule: Schedule, tiers: Sequence[Tier], charge: Charge, judge: Charge) -> Schedule:
    """Choose a tier for every step, one step after the other, until no change pays.

    All sites of a step share its tier, as an agent has it. Dropping is no choice: what nothing
    reads is not kept anyway, and what is read should be there.

    Args:
        schedule: Whose tiers; those that it has are forgotten.
        tiers: To choose from.
        charge: What the choice goes by.
        judge: Other worlds, in which the choice must be significantly cheaper than the cache's own.

    Returns:
        The schedule with tiers, or without any where the cache's own choice is as good.
    """
    bare = replace(schedule, tiers=None)
    kept = [tier for tier in tiers if tier is not Tier.DROP]
    chosen: Tiers = np.full(schedule.modes.shape, Tier.DEVICE, dtype=np.int8)
    least = float(charge(bare).mean())
    for _ in range(_PASSES):
        for step in np.flatnonzero(schedule.costs):
            for tier in kept:
                if tier == chosen[step, 0]:
                    continue
                tried = chosen.copy()
                tried[step] = tier
                cost = float(charge(replace(bare, tiers=tried)).mean())
                if cost < least:
                    chosen, least = tried, cost
    placed = replace(bare, tiers=chosen)
    return placed if mean_interval(judge(bare) - judge(placed)).low > 0 else bare
