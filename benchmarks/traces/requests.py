"""Requests replayed on the store, visit by visit, with somebody who says where entries go.

All requests are of one pipeline: rates of change belong to its sites, noise to the request. Who
places knows what the cache and its controller know, and what earlier requests did; whether the next
visit reads an entry or computes it anew nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.traces.guesses import kind_schedule
from benchmarks.traces.loops import ENTRY, SITES, STEPS, Beside
from ditcache_rl.cache import NEVER, Habit, Outlook, TieredCache, next_uses
from ditcache_rl.types import EntryKey, Floats, Mode, Modes, Tier

#: The kind of requests: every site refreshes when its change has passed a threshold.
KIND = 1
VISITS = STEPS * SITES
#: Age, in visits, that reads as 1.
_OLD = 8.0
FACTS = (
    "step_share",
    "site_share",
    "age",
    "read_now",
    "chance",
    "past_share",
    "past_share_at_age",
    "on_device",
    "device_free_share",
    "outranked_share",
    "device_share",
)
"""What is known at a visit, each in [0, 1]: where the loop is; visits since the site computed;
whether it reads now; the chance of reuse that the cache guesses from this request; the share of
reuse in earlier requests, of the site and of the site at this age; whether the entry is on the
device, what is free there, the share of the entries there that the cache thinks less of; and the
share of all entries that the device holds."""


class Placing(NamedTuple):
    """Where an entry goes, and the future by which the store weighs it there."""

    tier: Tier
    outlook: Outlook


class CallPrices(NamedTuple):
    """Seconds that an entry costs which is read and not on the device."""

    load_s: float
    recompute_s: float


class Tally(NamedTuple):
    """What the reads of a request found."""

    hits: int
    loads: int
    recomputed: int

    @property
    def hit_share(self) -> float:
        """Share of the reads that the device served."""
        return self.hits / sum(self)

    def seconds(self, prices: CallPrices) -> float:
        """Price the others."""
        return self.loads * prices.load_s + self.recomputed * prices.recompute_s


class Past(NamedTuple):
    """What earlier requests of the pipeline did."""

    share: Floats
    """(SITES,) of a site's visits that read."""
    share_at_age: Floats
    """(SITES, STEPS) of those whose entry had an age, in visits."""


def requests(seeds: Sequence[int]) -> list[Modes]:
    """Draw the schedules of requests: (STEPS, SITES) each."""
    return [kind_schedule(KIND, seed) for seed in seeds]


def past_of(schedules: Sequence[Modes]) -> Past:
    """Count the reads of earlier requests, with half a read and half a refresh added to each."""
    reads, seen = np.full((SITES, STEPS), 0.5), np.ones((SITES, STEPS))
    sites = np.arange(SITES)
    for modes in schedules:
        age = np.zeros(SITES, dtype=np.int64)
        for step in modes[1:]:
            read = step != Mode.COMPUTE
            reads[sites, age] += read
            seen[sites, age] += 1
            age = np.where(read, age + 1, 0)
    return Past((reads - 0.5).sum(1) / (seen - 1).sum(1), reads / seen)


class StoreReplay:
    """A request on a store of its own; the host has room for everything.

    Args:
        modes: (STEPS, SITES) what happens.
        device_share: Share of the sites' entries that the device holds.
        past: What earlier requests did.

    Attributes:
        now: The visit that is next: step * SITES + site.
        tally: What the reads found so far.
    """

    def __init__(self, modes: Modes, device_share: float, past: Past) -> None:
        self.device_share, self.past = device_share, past
        self.now, self.tally = 0, Tally(0, 0, 0)
        self._reads = modes != Mode.COMPUTE
        self._uses = next_uses(modes[:, None, :])[..., 0]
        room = round(device_share * SITES) * ENTRY
        self._cache = TieredCache(room, 2 * SITES * ENTRY, copier=Beside())
        self._keys = [EntryKey(0, 0, site, 0) for site in range(SITES)]
        self._entry = torch.ones(ENTRY // 4)
        self._habits = [Habit() for _ in range(SITES)]
        self._ages = [0] * SITES
        self._chances, self._visits = np.zeros(SITES), np.zeros(SITES)
        self._arrive()

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return self.now == VISITS

    @property
    def site(self) -> int:
        """Whose visit is next."""
        return self.now % SITES

    @property
    def reads(self) -> bool:
        """Whether it reads its entry, instead of computing a new one."""
        return bool(self._reads[self.now // SITES, self.site])

    @property
    def chance(self) -> float:
        """Of the entry being read at the visit after, as the cache guesses."""
        return self._habits[self.site].chance

    @property
    def chance_in_past(self) -> float:
        """The same, as earlier requests of the site at this age had it."""
        return float(self.past.share_at_age[self.site, self._ages[self.site]])

    @property
    def next_read(self) -> int:
        """The visit that reads the entry next, NEVER if it is computed before; hindsight."""
        step = int(self._uses[self.now // SITES, self.site])
        return NEVER if step == NEVER else step * SITES + self.site

    def facts(self) -> NDArray[np.float32]:
        """Return what is known at the visit: (FACTS,), before anything is moved."""
        site, chance, device = self.site, self.chance, self._cache.device
        there = [key.site for key in device.held() if key.site != site]
        worth = self._chances[there] / np.maximum(1, self._visits[there] - self.now)
        values = (
            self.now // SITES / (STEPS - 1),
            site / (SITES - 1),
            min(1.0, self._ages[site] / _OLD),
            self.reads,
            chance,
            self.past.share[site],
            self.chance_in_past,
            self._keys[site] in device,
            device.free_share,
            (worth < chance / SITES).mean() if there else 1.0,
            self.device_share,
        )
        return np.array(values, dtype=np.float32)

    def play(self, placement: Placing) -> Tally:
        """Read or compute the entry, and place it.

        Returns:
            What this visit's read found; nothing where it computed.
        """
        cache, key, (tier, outlook) = self._cache, self._keys[self.site], placement
        found, tensor = Tally(0, 0, 0), None
        if self.reads:
            hit = key in cache.device
            tensor = cache.get(key, outlook)
            found = Tally(int(hit), int(not hit and tensor is not None), int(tensor is None))
        if tier is Tier.DROP:
            cache.discard(key)
        elif tensor is None:
            cache.put(key, self._entry.clone(), tier, outlook)
        elif tier is not Tier.DEVICE and key in cache.device:
            cache.put(key, tensor, tier, outlook)
        self._chances[self.site] = outlook.chance
        self._visits[self.site] = self.now + SITES
        self.tally = Tally(*(a + b for a, b in zip(self.tally, found, strict=True)))
        self.now += 1
        if self.done:
            self.close()
        else:
            self._arrive()
        return found

    def close(self) -> None:
        """Give the store back; twice is harmless."""
        self._cache.close()

    def _arrive(self) -> None:
        """Note what the next visit does."""
        self._habits[self.site].visit(self.reads)
        self._ages[self.site] = self._ages[self.site] + 1 if self.reads else 0
