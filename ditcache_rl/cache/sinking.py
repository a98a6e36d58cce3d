"""Move entries to the disk in worker threads, so that whoever puts one does not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from ditcache_rl.cache.inventory import Inventory
from ditcache_rl.cache.workers import FAREWELL_S, Job, Urgency
from ditcache_rl.types import EntryKey, Tier


class Push(Protocol):
    """Moves an entry that is marked as moving."""

    def __call__(self, level: Tier, key: EntryKey, to: list[Tier], *, keep: bool) -> None:
        """Move it from a tier to one of others; with `keep` it stays if none takes it."""
        ...


class Sinking:
    """Moves to the disk that workers do.

    Args:
        inventory: What lies where.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._jobs: list[Job] = []

    def sink(self, key: EntryKey, push: Push) -> None:
        """Have an entry of the device moved to the disk."""
        self._submit(partial(_sink_entry, self._inventory, key, push))

    def tidy(self, push: Push) -> None:
        """Have room made in a full host tier before the next entry comes."""
        inventory = self._inventory
        disk, nbytes = inventory.slower.get(Tier.DISK), inventory.largest_bytes
        if disk is None or disk.used_bytes + nbytes > disk.cap_bytes:
            return
        with inventory.lock:
            if any(not job.done for job in self._jobs) or not _is_full(inventory):
                return
        self._submit(partial(_sink_least, inventory, push))

    def flush(self) -> None:
        """Return when what was on its way is there."""
        with self._inventory.lock:
            jobs = list(self._jobs)
        for job in jobs:
            if not job.run():
                job.wait(FAREWELL_S)

    def _submit(self, work: Callable[[], None]) -> None:
        job = self._inventory.workers.submit(work, Urgency.WRITE)
        with self._inventory.lock:
            self._jobs = [*(other for other in self._jobs if not other.done), job]


def _is_full(inventory: Inventory) -> bool:
    host = inventory.slower[Tier.HOST]
    return host.used_bytes + inventory.largest_bytes > host.cap_bytes


def _sink_entry(inventory: Inventory, key: EntryKey, push: Push) -> None:
    with inventory.lock:
        if key not in inventory.device or key in inventory.ledger.moving:
            return
        inventory.ledger.moving.add(key)
    push(Tier.DEVICE, key, [Tier.DISK], keep=True)


def _sink_least(inventory: Inventory, push: Push) -> None:
    with inventory.lock:
        host = inventory.slower[Tier.HOST]
        sizes = [(key, host.size_of(key)) for key in host.held()]
        victim = inventory.ledger.least(sizes, None) if _is_full(inventory) else None
        if victim is None:
            return
        inventory.ledger.moving.add(victim)
    push(Tier.HOST, victim, [Tier.DISK], keep=True)
