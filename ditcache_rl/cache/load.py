"""Reading entries back from slower tiers, ahead of their use or at it."""

from __future__ import annotations

import time
from typing import NamedTuple

from torch import Tensor

from ditcache_rl.cache.slab import Slot
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
