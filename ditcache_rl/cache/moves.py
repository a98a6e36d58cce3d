"""Write entries into tiers, and move those that are worth less out of their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import Tensor

from ditcache_rl.cache.codec import LOSSLESS, Codec, Original, plain
from ditcache_rl.cache.integrity import NotFiniteError, is_finite
from ditcache_rl.cache.inventory import Inventory
from ditcache_rl.cache.placement import Outlook
from ditcache_rl.cache.slab import Slot
from ditcache_rl.cache.workers import Urgency
from ditcache_rl.errors import CacheCorruptionError
from ditcache_rl.types import EntryKey, Tier


class Moves:
    """Puts and demotions.

    Args:
        inventory: What lies where.
        codec: Format of what is stored from now on in slower tiers.

    Notes:
        Bytes move without the lock. Whoever writes therefore commits under the lock only what is
        still wanted: a new entry if nobody has discarded or replaced it meanwhile, an entry that
        moves if it is still where it came from.
    """

    def __init__(self, inventory: Inventory, codec: Codec) -> None:
        self._inventory = inventory
        self.codec = codec

    def put(self, level: Tier, key: EntryKey, tensor: Tensor, outlook: Outlook | None) -> bool:
        """Store a new entry in a tier; False if it has no room.

        Raises:
            NotFiniteError: If the tensor is not finite; nothing is stored.
        """
        if level is Tier.DEVICE:
            return self._put_fast(key, tensor, outlook)
        if tensor.nbytes > self._inventory.largest_bytes:
            self._inventory.largest_bytes = tensor.nbytes
        check = not tensor.is_cuda
        if self.codec is LOSSLESS:
            return self._store(level, key, plain(tensor), None, outlook, check=check)
        if check and not is_finite(tensor):
            raise NotFiniteError
        return self._store(level, key, *self.codec.pack(tensor), outlook)

    def make_room(self, level: Tier, nbytes: int, worth: float | None, *, spare: int = 0) -> bool:
        """Move entries that are worth less down, or out, until so many bytes fit.

        Args:
            level: The tier that is full.
            nbytes: Of the newcomer; 0 to get under the cap.
            worth: Of the newcomer; None if everything may go.
            spare: Bytes to leave free beyond it.
        """
        inventory = self._inventory
        tier = inventory.device if level is Tier.DEVICE else inventory.slower[level]
        while True:
            with inventory.lock:
                inventory.flights.settle()
                if self._fits(level, nbytes, spare):
                    return True
                sizes = ((key, tier.size_of(key)) for key in tier.held())
                victim = inventory.ledger.least(sizes, worth)
                if victim is None:
                    return False
                inventory.ledger.moving.add(victim)
            lower = [tier for tier in inventory.slower if tier > level]
            self._push(level, victim, lower)

    def bring_inside(self, level: Tier, keys: Iterable[EntryKey]) -> None:
        """Move entries that lie behind the end of a slab to where it still has room, or out."""
        inventory = self._inventory
        for key in keys:
            with inventory.lock:
                if key in inventory.ledger.moving:
                    continue
                inventory.ledger.moving.add(key)
            self._push(level, key, [tier for tier in inventory.slower if tier >= level])

    def _put_fast(self, key: EntryKey, tensor: Tensor, outlook: Outlook | None) -> bool:
        inventory, nbytes, spare = self._inventory, tensor.nbytes, 0
        if inventory.slower:
            inventory.largest_bytes = max(inventory.largest_bytes, nbytes)
            spare = inventory.spare_bytes()
        with inventory.lock:
            if inventory.closed:
                return False
            fits = inventory.device.fits(key, nbytes, spare=spare)
            worth = inventory.ledger.worth(key, outlook, nbytes)
        if not fits and (
            outlook is None or not self.make_room(Tier.DEVICE, nbytes, worth, spare=spare)
        ):
            return False
        if not tensor.is_cuda and not is_finite(tensor):
            raise NotFiniteError
        with inventory.lock:
            kept = not inventory.closed and inventory.device.put(key, tensor, spare=spare)
            if kept:
                inventory.placed(key, Tier.DEVICE, outlook)
        return kept

    def _store(
        self,
        level: Tier,
        key: EntryKey,
        payload: Tensor,
        original: Original | None,
        outlook: Outlook | None,
        *,
        check: bool = False,
        still: Callable[[], bool] | None = None,
    ) -> bool:
        """Write a payload into a slower tier, unless it is discarded or replaced meanwhile.

        Args:
            level: That tier.
            key: Name of the entry.
            payload: Its bytes.
            original: What they stand for.
            outlook: What is known of its future.
            check: Whether it must be finite.
            still: Of an entry that moves: whether it is still where it comes from. None for a new
                one, which overrides what is being written under its name.
        """
        inventory = self._inventory
        tier = inventory.slower[level]
        with inventory.lock:
            if inventory.rests(level):
                return False
            slot = tier.reserve(payload, original)
            if slot is not None and still is None:
                inventory.storing[key] = slot
        if slot is None:
            slot = self._reserve_after_room(level, key, payload, original, outlook)
            if slot is None:
                return False
            if still is None:
                with inventory.lock:
                    inventory.storing[key] = slot
        try:
            if not self._write(level, slot, key, payload, check):
                self._strike(key, slot)
                return False
        except BaseException as error:
            self._strike(key, slot)
            if not isinstance(error, OSError | RuntimeError | MemoryError):
                raise  # also an interruption from the keyboard
            error.with_traceback(None)  # a job may hold the error, and frames hold the job
            with inventory.lock:
                inventory.failed(level, "write to", error)
            return False
        with inventory.lock:
            wanted = inventory.storing.get(key) is slot if still is None else still()
            if inventory.closed or not wanted:
                tier.release(slot)
                inventory.stats.puts += still is None and not inventory.closed
                return not inventory.closed
            replaced = tier.commit(key, slot)
            inventory.stats.bytes_written += slot.nbytes
            inventory.placed(key, level, outlook, moved=still is not None, replaced=replaced)
        return True

    def _reserve_after_room(
        self,
        level: Tier,
        key: EntryKey,
        payload: Tensor,
        original: Original | None,
        outlook: Outlook | None,
    ) -> Slot | None:
        """Reserve a slot in a full tier, if the newcomer is worth more than what is there."""
        inventory = self._inventory
        with inventory.lock:
            inventory.flights.settle()
            slot = inventory.slower[level].reserve(payload, original)
            if slot is not None or outlook is None:
                return slot
            worth = inventory.ledger.worth(key, outlook, payload.nbytes)
        if not self.make_room(level, payload.nbytes, worth):
            return None
        with inventory.lock:
            return inventory.slower[level].reserve(payload, original)

    def _write(self, level: Tier, slot: Slot, key: EntryKey, payload: Tensor, check: bool) -> bool:
        """Fill a slot; False if a disk takes longer than computing would.

        Raises what `SlotTier.write` does. Without success the slot is given back, as soon as nobody
        writes to it any more.
        """
        inventory = self._inventory
        tier = inventory.slower[level]
        if level is not Tier.DISK or (limit := inventory.patience_s(slot.nbytes)) is None:
            try:
                tier.write(slot, key, payload, check=check)
            except BaseException:
                with inventory.lock:
                    tier.release(slot)
                raise
            return True
        write = partial(tier.write, slot, key, payload, check=check)
        job = inventory.workers.submit(write, Urgency.READ)  # somebody stands still for it
        in_time = False
        try:
            in_time = job.wait(limit)
        finally:
            if not in_time:
                job.cancel()
                with inventory.lock:
                    inventory.overdue(job, partial(tier.release, slot))
        if not in_time:
            with inventory.lock:
                inventory.failed(level, "write to", TimeoutError(f"{limit:.2g} s have passed"))
        elif job.error is not None:
            with inventory.lock:
                tier.release(slot)
            raise job.error
        return in_time

    def _strike(self, key: EntryKey, slot: Slot) -> None:
        """Note that a write under way comes to nothing."""
        with self._inventory.lock:
            if self._inventory.storing.get(key) is slot:
                del self._inventory.storing[key]

    def _fits(self, level: Tier, nbytes: int, spare: int) -> bool:
        if level is Tier.DEVICE:
            return self._inventory.device.has_room(nbytes, spare=spare)
        tier = self._inventory.slower[level]
        if not nbytes:
            return tier.used_bytes <= tier.cap_bytes
        return tier.has_room(nbytes)

    def _push(self, level: Tier, key: EntryKey, to: Sequence[Tier]) -> None:
        """Move an entry, which is marked as moving, to the first tier that takes it, or drop it."""
        try:
            self._push_marked(level, key, to)
        finally:
            with self._inventory.lock:
                self._inventory.ledger.moving.discard(key)

    def _push_marked(self, level: Tier, key: EntryKey, to: Sequence[Tier]) -> None:
        inventory = self._inventory
        with inventory.lock:
            outlook = inventory.ledger.outlook(key)
            if level is Tier.DEVICE:
                entry: Tensor | Slot | None = inventory.device.get(key)
            else:
                entry = inventory.slower[level].pin(key)
        if entry is None:
            return
        still = partial(inventory.is_at, level, key, entry)
        try:
            moved = self._move(level, key, entry, outlook, still, to)
        finally:
            if isinstance(entry, Slot):
                with inventory.lock:
                    inventory.slower[level].unpin(entry)
        with inventory.lock:
            inventory.stats.demoted += moved
            if not moved and still():
                inventory.stats.evicted += 1
                inventory.forget(key)

    def _move(
        self,
        level: Tier,
        key: EntryKey,
        entry: Tensor | Slot,
        outlook: Outlook | None,
        still: Callable[[], bool],
        to: Sequence[Tier],
    ) -> bool:
        """Write an entry into one of some tiers; False if none takes it."""
        slower = self._inventory.slower
        if isinstance(entry, Slot):
            try:
                packed = slower[level].read(entry, key), entry.original
            except (OSError, CacheCorruptionError) as error:
                error.with_traceback(None)
                return False
        else:
            packed = self.codec.pack(entry)
        moved = any(self._store(target, key, *packed, outlook, still=still) for target in to)
        if moved and level is Tier.DEVICE:
            for tier in slower.values():
                slot = tier.slot(key)
                if slot is not None:
                    slot.finish()  # only then are its bytes free on the device
        return moved
