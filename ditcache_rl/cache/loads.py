"""Read entries: on the device, or back from slower tiers, ahead of their use or at it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice

from torch import Tensor

from ditcache_rl.cache.flights import Load
from ditcache_rl.cache.inventory import Inventory
from ditcache_rl.cache.moves import Moves
from ditcache_rl.cache.placement import Outlook
from ditcache_rl.cache.tier import DeviceTier, SlotTier
from ditcache_rl.errors import CacheCorruptionError
from ditcache_rl.types import EntryKey, Tier

#: Loads that wait for room: as many as two visits of a forecast of order 2 read.
_QUEUED = 6
_LOG = logging.getLogger(__name__)


class Loads:
    """Start loads ahead, take them, and make a miss of what fails.

    Args:
        inventory: What lies where.
        moves: Makes room on the device for what is read.
    """

    def __init__(self, inventory: Inventory, moves: Moves) -> None:
        self._inventory, self._moves = inventory, moves
        #: What is to be loaded ahead when there is room again.
        self._waiting: deque[EntryKey] = deque()

    def prefetch(self, keys: Iterable[EntryKey]) -> None:
        """Start loads in the order in which they will be read, as far as there is room.

        What comes next follows as reads make room.
        """
        inventory = self._inventory
        if not inventory.looks_ahead:
            return
        with inventory.lock:
            inventory.stage()
            inventory.flights.settle()
            coming = iter(keys)
            self._waiting.clear()
            for key in coming:
                if not self._start(key):
                    self._waiting.extend((key, *islice(coming, _QUEUED - 1)))
                    break

    def _start(self, key: EntryKey) -> bool:
        """Start a load ahead, if there is anything to load; False without room; lock held."""
        inventory = self._inventory
        ahead, device = inventory.flights.ahead, inventory.device
        if inventory.closed or key in ahead or key in device:
            return True
        level = inventory.level_of(key)
        if level is None or (level is Tier.HOST and inventory.copier.in_place):
            return True
        if inventory.sleeps(level):
            return True
        nbytes = inventory.slower[level].size_of(key)
        host = inventory.slower.get(Tier.HOST) if inventory.copier.in_place else None
        room: DeviceTier | SlotTier
        if device.has_room(nbytes):
            room = device
        elif host is not None and host.has_kept(nbytes):
            room = host  # the same memory
        else:
            return False
        ahead[key] = load = self._open(key, level)
        load.start(inventory.workers, room, nbytes)
        inventory.stats.prefetched += 1
        inventory.note_peak()
        return True

    def get(self, key: EntryKey, outlook: Outlook | None) -> Tensor | None:
        """Do what `TieredCache.get` says."""
        inventory = self._inventory
        with inventory.lock:
            if inventory.doubts:
                inventory.check_doubt(key)
            tensor = inventory.device.get(key)
            if tensor is not None:
                inventory.stats.device_hits += 1
                inventory.stats.device_hit_bytes += tensor.nbytes
                if outlook is not None:
                    inventory.ledger.note(key, outlook)
                return tensor
            load = None
            if inventory.slower:
                tensor = self._view(key, outlook)
                if tensor is not None:
                    return tensor
                load = self._take(key)
            if load is None:
                inventory.stats.misses += 1
                inventory.ledger.forget(key)
                return None
        return self._finish(load, outlook)

    def _view(self, key: EntryKey, outlook: Outlook | None) -> Tensor | None:
        """Return a host entry where it lies, if that is all that reading it takes; lock held."""
        inventory = self._inventory
        host = inventory.slower.get(Tier.HOST) if inventory.copier.in_place else None
        slot = None if host is None else host.slot(key)
        if host is None or slot is None or slot.original is not None:
            return None
        tensor = host.read(slot, key)
        inventory.stats.host_hits += 1
        inventory.stats.host_hit_bytes += slot.nbytes
        if outlook is not None:
            inventory.ledger.note(key, outlook)
        return tensor

    def _take(self, key: EntryKey) -> Load | None:
        """Return the load of an entry, begun ahead or not yet; lock held."""
        inventory = self._inventory
        inventory.flights.settle()
        load = inventory.flights.ahead.pop(key, None)
        if load is None:
            level = inventory.level_of(key)
            if level is None or inventory.closed:
                return None
            if inventory.sleeps(level):
                inventory.forget(key)
                return None
            load = self._open(key, level)
            if level is Tier.DISK and inventory.patience_s(0) is not None:
                load.submit(inventory.workers)
        return load

    def _finish(self, load: Load, outlook: Outlook | None) -> Tensor | None:
        """Return what a load brings, waiting for it no longer than computing would take."""
        inventory, ahead = self._inventory, load.room is not None
        there = load.job is not None and load.job.done
        started = 0.0 if there else time.perf_counter()
        loaded, error = None, None
        try:
            loaded = load.finish(inventory.patience_s(load.slot.nbytes))
        except Exception as caught:
            error = caught.with_traceback(None)  # whose frames would keep themselves, and slots
        except BaseException:  # an interruption from the keyboard: the reader goes, not the load
            with inventory.lock:
                inventory.flights.abandon(load)
            raise
        waited = 0.0 if there else time.perf_counter() - started
        tensor = None
        if loaded is not None:
            loaded.ticket.wait()
            tensor, original = loaded.payload, load.slot.original
            if original is not None:
                tensor = original.restored(tensor)
        with inventory.lock:
            stats = inventory.stats
            if ahead:
                stats.hidden += there
                stats.late += not there
            if loaded is None or tensor is None:
                self._fail(load, error)
                return None
            inventory.flights.end(load)
            if load.level is Tier.HOST:
                stats.host_hits += 1
                stats.host_hit_bytes += load.slot.nbytes
            else:
                stats.disk_hits += 1
                stats.disk_hit_bytes += load.slot.nbytes
            stats.load_s += loaded.seconds
            stats.wait_s += min(waited, loaded.seconds)
            inventory.flights.land(loaded)
            wanted = self._keep(load, tensor, outlook)
            while self._waiting and self._start(self._waiting[0]):
                self._waiting.popleft()
        if wanted:
            self._promote_after_room(load, tensor, outlook)
        return tensor

    def _open(self, key: EntryKey, level: Tier) -> Load:
        tier = self._inventory.slower[level]
        slot = tier.pin(key)
        assert slot is not None
        return Load(key, level, tier, slot, self._inventory.copier)

    def _keep(self, load: Load, tensor: Tensor, outlook: Outlook | None) -> bool:
        """Note the read, and leave the entry on the device if there is room; lock held.

        Returns:
            Whether it may be worth making room for.
        """
        inventory, key = self._inventory, load.key
        if inventory.slower[load.level].slot(key) is not load.slot:
            return False
        if outlook is not None:
            inventory.ledger.note(key, outlook)
        if load.level is Tier.HOST and inventory.copier.in_place:
            return False  # a tensor over the slab is as fast as one beside it
        return not self._promote(load, tensor, inventory.spare_bytes()) and outlook is not None

    def _promote_after_room(self, load: Load, tensor: Tensor, outlook: Outlook | None) -> None:
        """Leave an entry on a full device if it is worth more than what is there."""
        inventory = self._inventory
        with inventory.lock:
            spare = inventory.spare_bytes()
            worth = inventory.ledger.worth(load.key, outlook, tensor.nbytes)
        if self._moves.make_room(Tier.DEVICE, tensor.nbytes, worth, spare=spare):
            with inventory.lock:
                self._promote(load, tensor, spare)

    def _promote(self, load: Load, tensor: Tensor, spare: int) -> bool:
        """Move an entry that was read to the device, if it is still where it was; lock held."""
        inventory, tier = self._inventory, self._inventory.slower[load.level]
        if tier.slot(load.key) is not load.slot:
            return False
        if not inventory.device.put(load.key, tensor, spare=spare):
            return False
        tier.discard(load.key)
        inventory.stats.promoted += 1
        inventory.note_peak()
        return True

    def _fail(self, load: Load, error: Exception | None) -> None:
        """Make a miss of a load that failed or came too late; lock held."""
        inventory = self._inventory
        inventory.stats.misses += 1
        if error is None:
            inventory.stats.given_up += 1
            inventory.flights.abandon(load)
            if load.job is not None and load.level is Tier.DISK:
                inventory.overdue(load.job, inventory.flights.settle)
            return
        inventory.flights.end(load)
        tier = inventory.slower[load.level]
        if tier.slot(load.key) is load.slot:
            tier.discard(load.key)
            inventory.ledger.forget(load.key)
        if isinstance(error, CacheCorruptionError):
            inventory.stats.corrupt += 1
            _LOG.warning("dropped a cache entry: %s", str(error))
        else:
            inventory.failed(load.level, "read from", error)
