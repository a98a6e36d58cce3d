"""Loads under way: begun ahead, given up, or with a copy that still runs."""

from __future__ import annotations

from collections.abc import Mapping

from ditcache_rl.cache.load import Load, Loaded
from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.tier import SlotTier
from ditcache_rl.cache.transfer import Ticket
from ditcache_rl.cache.workers import Job
from ditcache_rl.types import EntryKey, Tier


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
