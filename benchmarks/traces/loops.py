"""Loops of accesses for `tiers.py`, replayed on the simulator and on the store itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from benchmarks.traces.simulator import RULES, Access, schedule_trace, simulate
from ditcache_rl.cache import NEVER, Habit, Outlook, TieredCache, next_uses
from ditcache_rl.cache.transfer import DONE, CpuCopier, Ticket
from ditcache_rl.types import EntryKey, Mode, Modes, Tier

STEPS, SITES = 50, 40
CAPACITY = SITES // 2
ENTRY = 1 << 10


class Beside(CpuCopier):
    """A device that does not share memory with the host, so that what is read there must move."""

    in_place = False

    def to_device(self, source: Tensor) -> tuple[Tensor, Ticket]:
        """Copy."""
        return source.clone(), DONE


def per_block_schedule() -> Modes:
    """Refresh site i every 1 + i mod 8 steps: (STEPS, SITES)."""
    steps = np.arange(STEPS)[:, None]
    return np.where(steps % (1 + np.arange(SITES) % 8) == 0, Mode.COMPUTE, Mode.REUSE).astype(
        np.int8
    )


def adaptive_schedule(seed: int) -> Modes:
    """Refresh a site when its accumulated change passes a threshold: (STEPS, SITES).

    Sites change at different rates, and most at the start and the end of the denoising.
    """
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.1, 0.9, SITES)
    modes = np.full((STEPS, SITES), Mode.REUSE, dtype=np.int8)
    drift = np.full(SITES, np.inf)
    for step in range(STEPS):
        position = step / (STEPS - 1)
        drift += rates * (0.5 + 2 * (position - 0.5) ** 2) * rng.uniform(0.5, 1.5, SITES)
        modes[step, drift >= 1] = Mode.COMPUTE
        drift[drift >= 1] = 0
    return modes


def rule_rates(modes: Modes) -> dict[str, float]:
    """Return the hit rate of every rule on a schedule's loop."""
    trace: Sequence[Access] = schedule_trace(modes)
    return {rule: simulate(trace, CAPACITY, rule).hit_rate for rule in RULES}


def store_rate(modes: Modes, *, known: bool) -> float:
    """Replay a schedule's loop on a store with room for half of the entries on the device.

    Args:
        modes: (STEPS, SITES) what happens.
        known: Whether the store is told, as with a static schedule, or only knows the order of the
            visits, as with a controller that decides online.

    Returns:
        Share of the reads that the device served.
    """
    uses = next_uses(modes[:, None, :])
    cache = TieredCache(CAPACITY * ENTRY, 2 * SITES * ENTRY, copier=Beside())
    entry = torch.ones(ENTRY // 4)
    habits = [Habit() for _ in range(SITES)]
    for step in range(STEPS):
        for site in range(SITES):
            now = step * SITES + site
            read = modes[step, site] != Mode.COMPUTE
            habits[site].visit(bool(read))
            coming = int(uses[step, site, 0])
            if known:
                outlook = Outlook(now, NEVER if coming == NEVER else coming * SITES + site)
            else:
                outlook = Outlook(now, now + SITES, habits[site].chance)
            key = EntryKey(0, 0, site, 0)
            if read:
                assert cache.get(key, outlook) is not None
            elif known and coming == NEVER:
                cache.discard(key)
            else:
                cache.put(key, entry.clone(), Tier.DEVICE, outlook)
            if known and coming == NEVER:
                cache.discard(key)
    stats = cache.stats
    cache.close()
    return stats.device_hits / stats.hits


def mean_rates(lines: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average hit rates name by name."""
    return {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}


def rates_table(rates: dict[str, dict[str, float]]) -> Table:
    """Lay out hit rates by rule and trace."""
    built = Table(title="hits of a device tier for half of the entries", title_justify="left")
    built.add_column("rule")
    for trace in rates:
        built.add_column(trace, justify="right")
    for rule in next(iter(rates.values())):
        built.add_row(rule, *(f"{100 * line[rule]:.1f} %" for line in rates.values()))
    return built
