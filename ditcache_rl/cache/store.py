"""The store that the runner talks to: put, get and discard over tiers."""

from __future__ import annotations

import threading

from torch import Tensor

from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.tier import DeviceTier
from ditcache_rl.types import EntryKey, Tier


class TieredCache:
    """Keep residuals in tiers, each under its own byte cap.

    A missing entry is never an error: the runner computes what it does not find. Tiers that are not
    there fall back to the fastest one that is.

    Notes:
        Safe to share between threads. An entry is at all times in exactly one tier.
    """

    def __init__(self, device_bytes: int | None = None) -> None:
        self.device = DeviceTier(device_bytes)
        self.stats = CacheStats()
        self._lock = threading.Lock()

    def put(self, key: EntryKey, tensor: Tensor, tier: Tier = Tier.DEVICE) -> bool:
        """Store a tensor; the caller gives it away and must not modify it.

        Returns:
            False if it was not kept, because the tier is DROP or has no room.
        """
        if tier is Tier.DROP:
            return False
        with self._lock:
            kept = self.device.put(key, tensor)
            self.stats.puts += kept
            self.stats.rejected += not kept
            self.stats.peak_bytes = max(self.stats.peak_bytes, self.device.used_bytes)
        return kept

    def get(self, key: EntryKey) -> Tensor | None:
        """Return an entry, not to be modified, or None."""
        with self._lock:
            tensor = self.device.get(key)
            self.stats.hits += tensor is not None
            self.stats.misses += tensor is None
        return tensor

    def discard(self, key: EntryKey) -> None:
        """Forget an entry if it is there."""
        with self._lock:
            self.device.discard(key)

    def discard_request(self, request: int) -> None:
        """Forget every entry of a request."""
        with self._lock:
            for key in self.device.held():
                if key.request == request:
                    self.device.discard(key)

    @property
    def used_bytes(self) -> int:
        """Bytes held now in all tiers."""
        return self.device.used_bytes
