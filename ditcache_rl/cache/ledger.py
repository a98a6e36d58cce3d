"""What the store knows of its entries besides where they are: requests, futures, moves."""

from __future__ import annotations

from collections.abc import Iterable

from ditcache_rl.cache.placement import Outlook, keep_value
from ditcache_rl.types import EntryKey


class Ledger:
    """Names, futures and moves of entries; the store calls it with its lock held."""

    def __init__(self) -> None:
        self._requests: dict[int, dict[EntryKey, Outlook | None]] = {}
        self._clocks: dict[int, int] = {}
        #: Entries that a thread is moving to another tier now.
        self.moving: set[EntryKey] = set()

    def note(self, key: EntryKey, outlook: Outlook | None) -> None:
        """Remember an entry and what is known of its future."""
        entries = self._requests.get(key.request)
        if entries is None:
            entries = self._requests[key.request] = {}
        entries[key] = outlook
        if outlook is not None:
            self._clocks[key.request] = outlook.now

    def forget(self, key: EntryKey) -> None:
        """Strike an entry out."""
        entries = self._requests.get(key.request)
        if entries is not None:
            entries.pop(key, None)

    def close_request(self, request: int) -> None:
        """Strike out a request."""
        self._requests.pop(request, None)
        self._clocks.pop(request, None)

    def of(self, request: int) -> list[EntryKey]:
        """List the entries of a request."""
        return list(self._requests.get(request, ()))

    def everything(self) -> list[EntryKey]:
        """List all entries."""
        return [key for entries in self._requests.values() for key in entries]

    def outlook(self, key: EntryKey) -> Outlook | None:
        """Return what is known of an entry's future."""
        return self._requests.get(key.request, {}).get(key)

    def worth(self, key: EntryKey, outlook: Outlook | None, nbytes: int) -> float:
        """Value an entry by its future, on the clock of its request."""
        now = 0 if outlook is None else max(outlook.now, self._clocks.get(key.request, 0))
        return keep_value(outlook, now, nbytes)

    def least(self, sizes: Iterable[tuple[EntryKey, int]], below: float | None) -> EntryKey | None:
        """Choose the entry that is worth least.

        Args:
            sizes: The candidates with their bytes; those that are on the move are not.
            below: Only entries worth less than that; None for any.
        """
        found, least = None, below
        for key, nbytes in sizes:
            if key in self.moving:
                continue
            worth = self.worth(key, self.outlook(key), nbytes)
            if least is None or worth < least:
                found, least = key, worth
        return found
