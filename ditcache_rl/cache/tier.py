"""The tiers: mappings from entry keys to tensors, each under a byte cap.

`DeviceTier` holds tensors by reference. `SlotTier` is what host and disk share: entries lie in
slots of a slab, and a slot that somebody still looks at outlives its entry.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

from torch import Tensor

from ditcache_rl.cache.codec import Original
from ditcache_rl.cache.slab import Allocator, Slot
from ditcache_rl.types import EntryKey

_SERIALS = itertools.count()


class DeviceTier:
    """Entries held by reference on the pipeline's device, counted against a cap.

    On a machine without GPU this is a capped pool in main memory, so that the same path runs there.

    Notes:
        Access is as cheap as a dict lookup. The caller gives a stored tensor away and must not
        modify it: where torch counts modifications, a modified entry is forgotten instead of
        returned. Lowering `cap_bytes` does not evict by itself; it only stops new entries.
    """

    def __init__(self, cap_bytes: int | None = None) -> None:
        #: Most bytes to hold; None for no limit.
        self.cap_bytes = cap_bytes
        self._first_cap_bytes = cap_bytes
        #: Entries that were modified behind the tier's back.
        self.altered = 0
        self._entries: dict[EntryKey, tuple[Tensor, int]] = {}
        self._used_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes held now, with those that are promised to copies under way."""
        return self._used_bytes

    @property
    def free_share(self) -> float:
        """Unused share of the cap, in [0, 1]; 1 without a cap."""
        if self.cap_bytes is None:
            return 1.0
        return max(0.0, 1.0 - self._used_bytes / self.cap_bytes) if self.cap_bytes else 0.0

    @property
    def cap_share(self) -> float:
        """The cap over what it was at first; 1 without a cap."""
        cap, first = self.cap_bytes, self._first_cap_bytes
        return 1.0 if cap is None or not first else cap / first

    def has_room(self, nbytes: int, *, spare: int = 0) -> bool:
        """Tell whether so many bytes fit, with some to spare."""
        return self.cap_bytes is None or self._used_bytes + nbytes + spare <= self.cap_bytes

    def promise(self, nbytes: int) -> None:
        """Count bytes that a copy under way takes; negative when it has ended."""
        self._used_bytes += nbytes

    def put(self, key: EntryKey, tensor: Tensor, *, spare: int = 0) -> bool:
        """Store a tensor by reference; an entry of the same key is replaced.

        Args:
            key: Its name.
            tensor: Given away.
            spare: Bytes of the cap to leave free.

        Returns:
            False, with nothing changed, if the cap would be exceeded.
        """
        nbytes = tensor.nbytes
        if not self.fits(key, nbytes, spare=spare):
            return False
        old = self._entries.get(key)
        self._entries[key] = tensor, _version(tensor)
        self._used_bytes += nbytes - (old[0].nbytes if old is not None else 0)
        return True

    def fits(self, key: EntryKey, nbytes: int, *, spare: int = 0) -> bool:
        """Tell whether an entry fits that would replace one of the same key."""
        if self.cap_bytes is None:
            return True
        old = self._entries.get(key)
        grown = nbytes - (old[0].nbytes if old is not None else 0)
        return self._used_bytes + grown + spare <= self.cap_bytes

    def get(self, key: EntryKey) -> Tensor | None:
        """Return the stored tensor, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        tensor, version = entry
        if version >= 0 and tensor._version != version:
            self.discard(key)
            self.altered += 1
            return None
        return tensor

    def discard(self, key: EntryKey) -> bool:
        """Forget an entry; False if it is not there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._used_bytes -= entry[0].nbytes
        return True

    def size_of(self, key: EntryKey) -> int:
        """Return the bytes of an entry that is there."""
        return self._entries[key][0].nbytes

    def held(self) -> tuple[EntryKey, ...]:
        """List the keys held now."""
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries


def _version(tensor: Tensor) -> int:
    """Return torch's count of modifications, -1 where there is none."""
    return -1 if tensor.is_inference() else tensor._version


class SlotTier(ABC):
    """Entries in slots of a slab.

    The store calls `write` and `read` without holding its lock, and everything else with it.

    Args:
        cap_bytes: Size of the slab.
        align: Of the slots.
    """

    def __init__(self, cap_bytes: int, *, align: int) -> None:
        self.cap_bytes = cap_bytes
        self.allocator = Allocator(cap_bytes, align=align)
        #: Of the cap, what entries leave to loads ahead, and what these take of it now.
        self.kept_bytes = self.promised_bytes = 0
        self._entries: dict[EntryKey, Slot] = {}
        self._undead: dict[int, Slot] = {}

    @abstractmethod
    def write(self, slot: Slot, key: EntryKey, payload: Tensor, *, check: bool = False) -> None:
        """Fill a reserved slot.

        Args:
            slot: Not yet committed.
            key: Its name.
            payload: Contiguous, and that for which the slot was reserved.
            check: Whether it must be finite. It is looked at on the way, part by part: what moves
                it then finds the part in the core's own cache.

        Raises:
            NotFiniteError: If it is not.
            OSError: If the system refuses.
        """

    @abstractmethod
    def read(self, slot: Slot, key: EntryKey) -> Tensor:
        """Return the payload of a pinned slot, in host memory and not to be modified.

        Raises:
            CacheCorruptionError: If it is not what was written.
            OSError: If the system refuses.
        """

    @abstractmethod
    def resize(self, cap_bytes: int) -> None:
        """Change the cap; what is used must fit already. Raises OSError if it cannot grow."""

    @property
    def used_bytes(self) -> int:
        """Bytes of the slab that are taken."""
        return self.allocator.used_bytes

    def reserve(self, payload: Tensor, original: Original | None = None) -> Slot | None:
        """Take a slot that no key names yet, or None if there is no room."""
        nbytes = payload.nbytes
        offset = self.allocator.take(nbytes, self.cap_bytes - self.kept_bytes)
        return None if offset is None else Slot(offset, nbytes, payload, original, next(_SERIALS))

    def has_room(self, nbytes: int) -> bool:
        """Tell whether a slot of so many bytes could be reserved."""
        offset = self.allocator.take(nbytes, self.cap_bytes - self.kept_bytes)
        if offset is None:
            return False
        self.allocator.give(offset)
        return True

    def has_kept(self, nbytes: int) -> bool:
        """Tell whether entries have left so many bytes to loads ahead."""
        promised = self.promised_bytes + nbytes
        return promised <= self.kept_bytes and self.used_bytes + promised <= self.cap_bytes

    def promise(self, nbytes: int) -> None:
        """Count bytes of the cap that a load ahead takes; negative when it has ended."""
        self.promised_bytes += nbytes

    def commit(self, key: EntryKey, slot: Slot) -> bool:
        """Give a filled slot its name; True if another one had it."""
        old = self._entries.get(key)
        self._entries[key] = slot
        if old is None:
            return False
        self.release(old)
        return True

    def release(self, slot: Slot) -> None:
        """Give a slot back, now or when its last user is gone."""
        slot.dead = True
        if not slot.users and not slot.holds:
            self.allocator.give(slot.offset)
            return
        # A slot holds the callbacks that hold it: left to itself, such a ring would be collected
        # before its tensors have died, and nobody would give the extent back.
        self._undead[id(slot)] = slot

    def pin(self, key: EntryKey) -> Slot | None:
        """Keep the slot of a key from being given away until `unpin`; None if there is none."""
        slot = self._entries.get(key)
        if slot is not None:
            slot.users += 1
        return slot

    def unpin(self, slot: Slot) -> None:
        """Undo one `pin`."""
        slot.users -= 1
        if slot.dead:
            self._give_if_free(slot)

    @abstractmethod
    def settle(self) -> None:
        """Give back what has become free by itself meanwhile; cheap where that is nothing."""

    def land(self) -> None:
        """Wait for the copies that still fill slots; called without the store's lock."""
        for slot in list(self._entries.values()):
            slot.finish()

    def discard(self, key: EntryKey) -> bool:
        """Forget an entry; False if it is not there."""
        slot = self._entries.pop(key, None)
        if slot is None:
            return False
        self.release(slot)
        return True

    def size_of(self, key: EntryKey) -> int:
        """Return the bytes that an entry takes."""
        return self.allocator.rounded(self._entries[key].nbytes)

    def held(self) -> tuple[EntryKey, ...]:
        """List the keys held now."""
        return tuple(self._entries)

    def beyond(self) -> list[EntryKey]:
        """List the entries that lie behind the end of a slab that was cut."""
        slots = self._entries.items()
        return [key for key, slot in slots if self.allocator.beyond(slot.offset)]

    def slot(self, key: EntryKey) -> Slot | None:
        """Return the slot of a key, or None."""
        return self._entries.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _give_if_free(self, slot: Slot) -> None:
        if slot.free:
            del self._undead[id(slot)]
            self.allocator.give(slot.offset)
