"""Change the caps of tiers, and give tiers up."""

from __future__ import annotations

from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.inventory import Inventory
from ditcache_rl.cache.moves import Moves
from ditcache_rl.cache.workers import FAREWELL_S
from ditcache_rl.types import Tier


class Resizer:
    """Makes room for a new cap, and waits for what still needs the old one.

    Args:
        inventory: What lies where.
        moves: Moves what has to go.
    """

    def __init__(self, inventory: Inventory, moves: Moves) -> None:
        self._inventory, self._moves = inventory, moves

    def resize(self, level: Tier, cap_bytes: int | None) -> None:
        """Do what `TieredCache.resize` says."""
        self._land_everything()
        if level is Tier.DEVICE:
            self._inventory.device.cap_bytes = cap_bytes
            self._moves.make_room(level, 0, None)
            return
        assert cap_bytes is not None
        tier = self._inventory.slower[level]
        old, tier.cap_bytes = tier.cap_bytes, min(cap_bytes, tier.cap_bytes)
        self._moves.make_room(level, 0, None)
        self._land_everything()
        with self._inventory.lock:
            try:
                tier.resize(cap_bytes)
            except (OSError, MemoryError):
                tier.cap_bytes = old
                raise
            stranded = tier.beyond()
        if stranded:
            self._moves.bring_inside(level, stranded)
            with self._inventory.lock:
                tier.resize(cap_bytes)

    def retire(self, level: Tier) -> None:
        """Do what `TieredCache.retire` says."""
        with self._inventory.lock:
            tier = self._inventory.slower[level]
            for key in tier.held():
                self._inventory.forget(key)
            del self._inventory.slower[level]
        if isinstance(tier, DiskTier):
            tier.close()

    def close(self) -> None:
        """Do what `TieredCache.close` says."""
        inventory = self._inventory
        with inventory.lock:
            inventory.closed = True
            inventory.forget_all()
        if inventory.slower:
            inventory.workers.close()
            self._land_everything()
        disk = inventory.slower.get(Tier.DISK)
        if isinstance(disk, DiskTier):
            disk.close()

    def _land_everything(self) -> None:
        """Give up loads ahead and wait for copies under way, so that all bytes can be counted."""
        flights = self._inventory.flights
        with self._inventory.lock:
            flights.leave_all()
        self._wait_for_left()
        with self._inventory.lock:
            flights.settle()
            tickets = flights.tickets()
            tiers = list(self._inventory.slower.values())
        for ticket in tickets:
            ticket.finish()
        for tier in tiers:
            tier.land()
        with self._inventory.lock:
            flights.settle()

    def _wait_for_left(self) -> None:
        """Wait for loads that were left; apart, since who holds a job holds the slot it reads."""
        with self._inventory.lock:
            jobs = self._inventory.flights.unfinished()
        for job in jobs:
            job.cancel()
            job.wait(FAREWELL_S)
