"""Loads under way: begun ahead, given up, or with a copy that still runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ditcache_rl.cache.slab import Slot
from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.tier import DeviceTier, SlotTier
from ditcache_rl.cache.transfer import Copier, Ticket
from ditcache_rl.cache.workers import Job, Urgency, Workers
from ditcache_rl.types import EntryKey, Tier


class Loaded(NamedTuple):
    """Bytes of an entry on the device, once their ticket has been waited for."""

    payload: Tensor
    source: Tensor
    """The host bytes; must live until the copy has ended."""
    ticket: Ticket
    seconds: float


class Load:
    """An entry on its way to the device; its slot is pinned until the load is over.

    Attributes:
        key: Its name.
        level: Where it comes from.
        slot: Its place there.
        room: The tier under whose cap a load ahead has its bytes; None for any other.
        promised: Those bytes.
        job: Runs it; None if nobody has asked for it ahead.
    """

    __slots__ = ("_copier", "_tier", "job", "key", "level", "promised", "room", "slot")

    def __init__(
        self, key: EntryKey, level: Tier, tier: SlotTier, slot: Slot, copier: Copier
    ) -> None:
        self.key, self.level, self.slot = key, level, slot
        self.room: DeviceTier | SlotTier | None = None
        self.promised = 0
        self.job: Job | None = None
        self._tier, self._copier = tier, copier

    def start(self, workers: Workers, room: DeviceTier | SlotTier, nbytes: int) -> None:
        """Let a worker do it, with so many bytes of a tier that has room for them."""
        self.room, self.promised = room, nbytes
        room.promise(nbytes)
        self.submit(workers)

    def submit(self, workers: Workers) -> None:
        """Let a worker do it for somebody who waits."""
        self.job = workers.submit(self.fetch, Urgency.READ)

    def finish(self, timeout_s: float | None) -> Loaded | None:
        """Return what was loaded, doing it here if nobody has begun.

        Args:
            timeout_s: Longest wait for somebody who has; None to wait for the end.

        Returns:
            None if it is not there in time.

        Raises:
            CacheCorruptionError: If it is not what was written.
            OSError: If the system refuses.
        """
        if self.job is None:
            return self.fetch()
        # With a limit the wait must stay in this thread's hands, even for what has not begun.
        if (timeout_s is None and self.job.run()) or self.job.wait(timeout_s):
            if self.job.error is not None:
                raise self.job.error
            loaded: Loaded = self.job.result
            return loaded
        return None

    def fetch(self) -> Loaded:
        """Do it now; errors are those of `finish`."""
        started = time.perf_counter()
        source = self._tier.read(self.slot, self.key)
        payload, ticket = self._copier.to_device(source)
        return Loaded(payload, source, ticket, time.perf_counter() - started)


class Flights:
    """Every load that holds a slot, or bytes under a cap, until it is over.

    The store calls it with its lock held.

    Notes:
        A load that was begun is in exactly one place: `ahead` until somebody takes or leaves it,
        with its reader, or among those that were left. Its slot is unpinned and its promise taken
        back exactly once, by `end`.
    """

    def __init__(self, slower: Mapping[Tier, SlotTier], stats: CacheStats) -> None:
        self._slower, self._stats = slower, stats
        #: Loads that nobody has asked for yet.
        self.ahead: dict[EntryKey, Load] = {}
        self._left: list[Load] = []
        self._landing: list[Loaded] = []

    def leave(self, key: EntryKey) -> None:
        """Give up a load ahead that nobody needs any more."""
        load = self.ahead.pop(key, None)
        if load is not None:
            self._stats.prefetch_wasted += 1
            self.abandon(load)

    def leave_all(self) -> None:
        """Give up all loads ahead."""
        for key in list(self.ahead):
            self.leave(key)

    def abandon(self, load: Load) -> None:
        """Let a load end by itself; nobody takes what it brings."""
        self._left.append(load)

    def end(self, load: Load) -> None:
        """Give back what a load held."""
        self._slower[load.level].unpin(load.slot)
        if load.room is not None:
            load.room.promise(-load.promised)
            load.room = None

    def land(self, loaded: Loaded) -> None:
        """Keep the source of a copy until it has ended."""
        if not loaded.ticket.done():
            self._landing.append(loaded)

    def settle(self) -> None:
        """Let go of what has ended meanwhile."""
        if self._left:
            for load in self._left:
                if load.job is not None:
                    load.job.cancel()  # unless a worker has begun
            over = [load for load in self._left if load.job is None or load.job.done]
            self._left = [load for load in self._left if load not in over]
            for load in over:
                self.end(load)
                if load.job is not None and load.job.result is not None:
                    self._landing.append(load.job.result)  # its copy may still run
        if self._landing:
            self._landing = [loaded for loaded in self._landing if not loaded.ticket.done()]
        for tier in self._slower.values():
            tier.settle()  # last: the sources of the copies above have held slots

    def unfinished(self) -> list[Job]:
        """List the jobs of loads that were left."""
        return [load.job for load in self._left if load.job is not None]

    def tickets(self) -> list[Ticket]:
        """List the copies under way, without the loads: who holds one holds its slot."""
        return [loaded.ticket for loaded in self._landing]
