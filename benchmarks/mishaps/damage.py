"""Blocks of the slab that are not what was written there."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.mishaps.outcome import BITFLIP, SWAP, Beat, CaseOutcome, Findings, numbers
from ditcache_rl.cache import TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.slab import Slot
from ditcache_rl.types import EntryKey, Tier

_ONE, _OTHER = EntryKey(0, 0, 0, 0), EntryKey(0, 0, 1, 0)
#: Numbers per entry: one, some, a page and a bit, and one that two threads share.
_COUNTS = (1, 300, 1025, 300, 1025, 20_000, 1_000_000)


class _Slab:
    """A store with a disk tier, and the blocks behind its back."""

    def __init__(self, folder: Path) -> None:
        self.cache = TieredCache(16 << 20, None, 16 << 20, cache_dir=folder)
        disk = self.cache.slower[Tier.DISK]
        assert isinstance(disk, DiskTier)
        self.disk = disk

    def put(self, key: EntryKey, tensor: Tensor) -> Slot:
        """Store on disk; return where."""
        assert self.cache.put(key, tensor, Tier.DISK)
        slot = self.disk.slot(key)
        assert slot is not None
        return slot

    def block(self, slot: Slot) -> bytes:
        """Read an entry's bytes."""
        return os.pread(self.disk.fd, slot.nbytes, slot.offset)

    def lay(self, slot: Slot, block: bytes) -> None:
        """Overwrite an entry's bytes."""
        os.pwrite(self.disk.fd, block, slot.offset)

    def notices(self, key: EntryKey, *, ahead: bool) -> bool:
        """Read a damaged entry; tell whether that was a miss that the store counts as damage."""
        before = self.cache.stats.corrupt
        if ahead:
            self.cache.prefetch([key])
        found = self.cache.get(key)
        return found is None and self.cache.stats.corrupt == before + 1


def flipped_bits(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Flip one bit of an entry, so many times, and read it directly or ahead."""
    rng, found, slab = random.Random(1), Findings(), _Slab(folder)
    for flip in range(amount):
        count = rng.choice(_COUNTS)
        slot = slab.put(_ONE, numbers((count,), torch.float32, flip))
        block = bytearray(slab.block(slot))
        bit = rng.randrange(8 * len(block))
        block[bit // 8] ^= 1 << bit % 8
        slab.lay(slot, bytes(block))
        noticed = slab.notices(_ONE, ahead=flip % 3 == 0)
        found.expect(noticed, BITFLIP, f"bit {bit} of {len(block)} bytes")
        beat()
    slab.cache.close()
    return found.outcome(flips=amount)


def swapped_blocks(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Lay a whole block where another one should be, so many times.

    In turn: that of another entry, that of the same entry before it was replaced, and that of the
    same name and size before the slot was given back.
    """
    rng, found, slab = random.Random(2), Findings(), _Slab(folder)
    kinds: tuple[Callable[[_Slab, int, int], list[EntryKey]], ...] = (_exchange, _revert, _revive)
    for swap in range(amount):
        kind, count = kinds[swap % len(kinds)], rng.choice(_COUNTS)
        for key in kind(slab, count, swap):
            noticed = slab.notices(key, ahead=swap % 2 == 0)
            found.expect(noticed, SWAP, f"{kind.__name__} of {4 * count} bytes, {key}")
        beat()
    slab.cache.close()
    return found.outcome(swaps=amount, kinds=len(kinds))


def _exchange(slab: _Slab, count: int, seed: int) -> list[EntryKey]:
    one = slab.put(_ONE, numbers((count,), torch.float32, seed))
    other = slab.put(_OTHER, numbers((count,), torch.float32, seed + 1))
    first, second = slab.block(one), slab.block(other)
    slab.lay(one, second)
    slab.lay(other, first)
    return [_ONE, _OTHER]


def _revert(slab: _Slab, count: int, seed: int) -> list[EntryKey]:
    old = slab.block(slab.put(_ONE, numbers((count,), torch.float32, seed)))
    slab.lay(slab.put(_ONE, numbers((count,), torch.float32, seed + 1)), old)
    return [_ONE]


def _revive(slab: _Slab, count: int, seed: int) -> list[EntryKey]:
    slot = slab.put(_ONE, numbers((count,), torch.float32, seed))
    old, offset = slab.block(slot), slot.offset
    slab.cache.discard(_ONE)
    again = slab.put(_ONE, numbers((count,), torch.float32, seed + 1))
    assert again.offset == offset
    slab.lay(again, old)
    return [_ONE]
