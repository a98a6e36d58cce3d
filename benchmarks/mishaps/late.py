"""Copies between device and host that end late and in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.mishaps.faulty import LateCopier
from benchmarks.mishaps.outcome import STALE, Beat, CaseOutcome, Findings
from ditcache_rl.cache import Outlook, TieredCache
from ditcache_rl.cache.transfer import Copier
from ditcache_rl.types import EntryKey, Tier

_KEYS = [EntryKey(0, 0, site, 0) for site in range(4)]


class Streams(NamedTuple):
    """Where a schedule runs: simulated streams, or those of a GPU."""

    device: torch.device
    size: int
    """Numbers per entry."""
    copier: Copier | None
    """None for that of the device."""
    tick: Callable[[], None]
    """Lets time pass."""


def simulated(rng: random.Random) -> Streams:
    """Copy on the CPU, as late as `rng` likes."""
    copier = LateCopier(rng)
    return Streams(torch.device("cpu"), 16, copier, copier.tick)


def on_cuda(rng: random.Random) -> Streams:
    """Copy on a GPU that is kept busy for random times."""
    sleep: Any = torch.cuda._sleep
    return Streams(torch.device("cuda"), 1 << 18, None, lambda: sleep(rng.randrange(10**6)))


def schedule(
    found: Findings, seed: int, streams_of: Callable[[random.Random], Streams], folder: Path | None
) -> int:
    """Run one random schedule; return how many reads found something.

    Args:
        found: Takes what is stale.
        seed: Of the schedule.
        streams_of: Makes its streams.
        folder: Of a disk tier below the others; None for none.
    """
    rng = random.Random(seed)
    streams = streams_of(rng)
    nbytes = 4 * streams.size
    cache = TieredCache(
        4 * nbytes,
        10 * nbytes,
        None if folder is None else 8 * max(nbytes, 4096),
        cache_dir=folder,
        device=streams.device,
        copier=streams.copier,
    )
    model: dict[EntryKey, float] = {}
    reads = 0
    for now in range(25):
        key, action = rng.choice(_KEYS), rng.randrange(6)
        if action <= 1:
            value = float(rng.randrange(1, 1000))
            tier = Tier(rng.randrange(2 if folder is None else 3))
            tensor = torch.zeros(streams.size, device=streams.device).add_(value)
            if cache.put(key, tensor, tier, Outlook(now, now + 1 + key.site)):
                model[key] = value
            del tensor  # its memory may be given to somebody else now
        elif action == 2:
            cache.prefetch(rng.sample(_KEYS, 2))
        elif action == 3:
            cache.discard(key)
            model.pop(key, None)
        elif action == 4:
            streams.tick()
        got = cache.get(key)
        if got is None:
            model.pop(key, None)
            continue
        reads += 1
        fresh = key in model and bool((got == model[key]).all())
        found.expect(fresh, STALE, f"schedule {seed}, operation {now}, {key}")
        del got
    cache.close()
    found.expect(cache.used_bytes == 0, STALE, f"schedule {seed}: bytes after the end")
    return reads


def late_copies(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Run so many schedules on simulated streams, every fourth one with a disk below."""
    found, reads = Findings(), 0
    for seed in range(amount):
        reads += schedule(found, seed, simulated, folder if seed % 4 == 0 else None)
        beat()
    return found.outcome(schedules=amount, reads_served=reads)
