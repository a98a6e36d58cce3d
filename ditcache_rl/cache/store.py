"""The store that the runner talks to: put, get, prefetch and discard over tiers.

A cache may lose anything at any time, so nothing here raises into the model: what fails is a miss,
and the runner computes what it misses. `inventory` knows what lies where, `moves` writes and
demotes, `loads` reads, `resize` changes caps.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditcache_rl.cache.caps import Caps
from ditcache_rl.cache.codec import LOSSLESS, Codec
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.host import HostTier
from ditcache_rl.cache.integrity import Doubt, NotFiniteError
from ditcache_rl.cache.inventory import Inventory
from ditcache_rl.cache.io import SystemIO
from ditcache_rl.cache.loads import Loads
from ditcache_rl.cache.moves import Moves
from ditcache_rl.cache.placement import Outlook
from ditcache_rl.cache.resize import Resizer
from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.tier import DeviceTier, SlotTier
from ditcache_rl.cache.transfer import Copier
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import EntryKey, Tier

_LOG = logging.getLogger(__name__)
_CPU = torch.device("cpu")


class TieredCache:
    """Keep residuals in tiers, each under its own byte cap.

    A missing entry is never an error: the runner computes what it does not find. Tiers that are not
    there fall back to the fastest one that is. Without `host_bytes` and `disk_bytes` there are no
    threads, no files and no slab, and every call is a dict lookup under a lock.

    Args:
        device_bytes: Cap of the device tier; None for no limit.
        host_bytes: Size of the host tier; None for none.
        disk_bytes: Size of the disk tier; None for none.
        cache_dir: Where the disk tier lies.
        device: Of the tensors.
        codec: Format in the slower tiers.
        compute_s_per_byte: Time to compute an entry. A call of the disk that takes longer is given
            up, and the tier sleeps until it has come back. None to wait for every call.
        io: System calls of the disk tier.
        copier: Copies between device and host.

    Raises:
        ConfigError: If `cache_dir` is not fit.
        OSError: If the disk has no room for the slab.
        MemoryError: If the host has no room for it.

    Notes:
        Safe to share between threads. An entry is at all times in exactly one tier. Tensors are
        given away with `put` and must not be modified after `get`. A child process that is forked
        off finds every store empty, and closed if it had slower tiers: threads and file belong to
        the parent.
    """

    def __init__(
        self,
        device_bytes: int | None = None,
        host_bytes: int | None = None,
        disk_bytes: int | None = None,
        *,
        cache_dir: Path | None = None,
        device: torch.device = _CPU,
        codec: Codec = LOSSLESS,
        compute_s_per_byte: float | None = None,
        io: SystemIO | None = None,
        copier: Copier | None = None,
    ) -> None:
        inventory = Inventory(device_bytes, device, copier, compute_s_per_byte)
        self._work_on(inventory, codec)
        _STORES.add(self)
        if host_bytes is not None:
            inventory.slower[Tier.HOST] = HostTier(
                host_bytes, inventory.copier, pinned=device.type == "cuda"
            )
        if disk_bytes is not None:
            assert cache_dir is not None
            inventory.slower[Tier.DISK] = DiskTier(
                disk_bytes, cache_dir, io or SystemIO(), inventory.workers
            )

    @classmethod
    def under(cls, caps: Caps, **options: Any) -> TieredCache:
        """Open a store with the tiers that caps name.

        Args:
            caps: Sizes that hold on this machine.
            options: Further arguments of the constructor.

        Raises:
            ConfigError: If there is no room for them, or the directory is not fit.
        """
        try:
            return cls(*caps[:3], cache_dir=caps.cache_dir, **options)
        except (OSError, MemoryError) as error:
            raise ConfigError(
                f"expected room for a host tier of {caps.host_bytes} bytes and a disk tier of "
                f"{caps.disk_bytes} in {caps.cache_dir}, received {error}; ask for less"
            ) from error

    @property
    def device(self) -> DeviceTier:
        """The fastest tier."""
        return self._inventory.device

    @property
    def slower(self) -> Mapping[Tier, SlotTier]:
        """Host and disk, as far as they are there, the faster one first."""
        return self._inventory.slower

    @property
    def stats(self) -> CacheStats:
        """What happened so far."""
        return self._inventory.stats

    @property
    def used_bytes(self) -> int:
        """Bytes held now in all tiers."""
        with self._lock:
            self._inventory.flights.settle()  # tensors may have died since the last call
            return self._inventory.used_bytes

    def tier_of(self, key: EntryKey) -> Tier:
        """Return where an entry lies; DROP if it is nowhere."""
        with self._lock:
            if key in self.device:
                return Tier.DEVICE
            level = self._inventory.level_of(key)
        return Tier.DROP if level is None else level

    @property
    def looks_ahead(self) -> bool:
        """Whether there is anything that `prefetch` could load."""
        return self._inventory.looks_ahead

    def put(
        self,
        key: EntryKey,
        tensor: Tensor,
        tier: Tier = Tier.DEVICE,
        outlook: Outlook | None = None,
    ) -> bool:
        """Store a tensor; the caller gives it away and must not modify it.

        Args:
            key: Its name; an entry of the same name is replaced.
            tensor: What to keep.
            tier: Where to; without room there in the next slower tier, then in a faster one.
            outlook: What is known of its future; entries that are worth less make room for it.

        Returns:
            False if it was not kept, because the tier is DROP, nothing has room, or it has NaN or
            Inf.
        """
        inventory = self._inventory
        if tier is Tier.DROP or inventory.closed:
            return False
        doubt = Doubt.about(tensor) if tensor.is_cuda else None
        try:
            # In the common case there is nothing to choose.
            kept = (tier is Tier.DEVICE or tier in inventory.slower) and self._moves.put(
                tier, key, tensor, outlook
            )
            others = [] if kept else inventory.others(tier)
            kept = kept or any(self._moves.put(other, key, tensor, outlook) for other in others)
        except NotFiniteError:
            with self._lock:
                inventory.stats.not_finite += 1
                inventory.stats.rejected += 1
            return False
        if not kept or doubt is not None:
            with self._lock:
                inventory.stats.rejected += not kept
                if kept and doubt is not None:
                    inventory.doubts[key] = doubt
        return kept

    def get(self, key: EntryKey, outlook: Outlook | None = None) -> Tensor | None:
        """Return an entry, not to be modified, or None.

        Args:
            key: Its name.
            outlook: What is known of its future after this read.
        """
        return self._loads.get(key, outlook)

    def prefetch(self, keys: Iterable[EntryKey]) -> None:
        """Start loading entries, in the order in which they will be read, as far as there is room.

        Returns at once; what is on the device, under way or unknown is passed over.
        """
        self._loads.prefetch(keys)

    def discard(self, key: EntryKey) -> None:
        """Forget an entry if it is there."""
        with self._lock:
            self._inventory.forget(key)

    def discard_request(self, request: int) -> None:
        """Forget every entry of a request."""
        with self._lock:
            self._inventory.forget_request(request)

    def empty(self, reason: str) -> None:
        """Forget everything, because what it was computed with is no longer there."""
        with self._lock:
            keys = self._inventory.ledger.everything()
            self._inventory.forget_all()
            self.stats.emptied += 1
        _LOG.warning("cache emptied of %d entries: %s", len(keys), reason)

    def resize(self, level: Tier, cap_bytes: int | None) -> None:
        """Change the cap of a tier; what is worth least leaves it until the rest fits.

        Args:
            level: A tier that is there.
            cap_bytes: None for no limit, which only the device tier can have.

        Raises:
            OSError: If a slab cannot grow; the old cap stays.
            MemoryError: Likewise, where its memory cannot be pinned.
        """
        self._resizer.resize(level, cap_bytes)

    def retire(self, level: Tier) -> None:
        """Give up a slower tier with everything in it; from then on it costs nothing."""
        self._resizer.retire(level)

    def keep_every_bit(self) -> None:
        """Store without loss of precision from now on."""
        self._moves.codec = LOSSLESS

    def skip_dead_writes(self, count: int = 1) -> None:
        """Count entries that are not put because nothing would read them."""
        with self._lock:
            self.stats.dead_writes += count

    def close(self) -> None:
        """Forget everything, end the threads and give the slabs back; twice is harmless."""
        self._resizer.close()

    def _work_on(self, inventory: Inventory, codec: Codec) -> None:
        self._inventory, self._lock = inventory, inventory.lock
        self._moves = Moves(inventory, codec)
        self._loads = Loads(inventory, self._moves)
        self._resizer = Resizer(inventory, self._moves)

    def _after_fork(self) -> None:
        """Begin anew in a child process, closed where threads and file belong to the parent.

        At the fork another thread may have held the lock, and have been in the middle of anything.
        """
        before = self._inventory
        disk = before.slower.get(Tier.DISK)
        if isinstance(disk, DiskTier):
            disk.let_go()
        inventory = Inventory(before.device.cap_bytes, _CPU, before.copier, None)
        inventory.closed = before.closed or bool(before.slower)
        self._work_on(inventory, self._moves.codec)


#: All stores, which a forked child finds as they were in the middle of other threads' work.
_STORES: weakref.WeakSet[TieredCache] = weakref.WeakSet()


def _close_in_child() -> None:
    for store in list(_STORES):
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
