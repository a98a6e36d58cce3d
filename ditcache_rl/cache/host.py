"""The host tier: one slab of main memory, pinned where there is a GPU."""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.cache.codec import to_bytes
from ditcache_rl.cache.integrity import (
    THREADS_FROM,
    NotFiniteError,
    array_is_finite,
    array_of,
    array_over,
    bytes_of,
    is_finite,
    tensor_over,
)
from ditcache_rl.cache.slab import Slot
from ditcache_rl.cache.tier import SlotTier
from ditcache_rl.cache.transfer import Copier, Ticket
from ditcache_rl.types import EntryKey

_ALIGN = 64  # bytes of a cache line; every dtype may start there
#: Bytes that all cores check and then copy, so that the copy finds them in their shared cache.
_CHUNK_BYTES = 4 << 20

#: Shared pages, the default of Python, would be those of forked children too, and the system would
#: keep them when they are given back by MADV_DONTNEED.
_OWN = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class HostTier(SlotTier):
    """Entries in main memory.

    On a CPU pipeline reading copies nothing: a tensor over the slab keeps its slot alive. On a GPU
    the slab is registered with the driver as it is, since `pin_memory` would round it up to a power
    of two.

    Args:
        cap_bytes: Size of the slab; untouched pages of it cost nothing unless they are pinned.
        copier: Moves bytes from and to the device.
        pinned: Whether to register the slab with the driver.
    """

    def __init__(self, cap_bytes: int, copier: Copier, *, pinned: bool = False) -> None:
        super().__init__(cap_bytes, align=_ALIGN)
        self._copier, self._pinned = copier, pinned
        self._maps = [(0, *self._map(cap_bytes))]
        # Tensors die in any thread, also in one that holds the store's lock: their callbacks only
        # append here, and `settle` does the rest.
        self._released: deque[tuple[Slot, Any]] = deque()
        #: Slots that a copy still fills, with its source.
        self._flying: deque[tuple[Slot, Ticket, Tensor]] = deque()

    def settle(self) -> None:
        """Let go of the slots whose tensors have died, and of what copies have held."""
        while self._released:
            self._drop_hold(*self._released.popleft())
        if self._flying:
            for _ in range(len(self._flying)):
                slot, ticket, source = self._flying.popleft()
                if ticket.done():
                    self._drop_hold(slot, ticket)
                else:
                    self._flying.append((slot, ticket, source))

    def land(self) -> None:
        """Wait for the copies that still fill slots, forgotten ones included."""
        super().land()
        for _, ticket, _ in list(self._flying):
            ticket.finish()

    def write(self, slot: Slot, key: EntryKey, payload: Tensor, *, check: bool = False) -> None:
        """Copy a payload in; on a GPU the copy may still run afterwards, under `slot.tickets`."""
        memory = self._memory(slot)
        if self._copier.in_place and slot.nbytes >= THREADS_FROM:
            # Of the same dtype: torch copies bytes more slowly than numbers.
            target = tensor_over(array_over(memory, slot.shape, slot.dtype), slot.dtype)
            pairs = [(payload, target)]
            if slot.nbytes > _CHUNK_BYTES:
                step = _CHUNK_BYTES // slot.dtype.itemsize
                ends = [torch.split(end.view(-1), step) for end in (payload, target)]
                pairs = list(zip(*ends, strict=True))
            for source, room in pairs:
                if check and not is_finite(source):
                    raise NotFiniteError
                room.copy_(source)
            return
        if self._copier.in_place:
            array = array_of(payload)
            if check and not array_is_finite(array, slot.dtype):
                raise NotFiniteError
            memory[:] = bytes_of(array)
            return
        if check and not is_finite(payload):
            raise NotFiniteError
        ticket = self._copier.to_host(to_bytes(payload), torch.from_numpy(memory))
        if not ticket.done():  # keep both ends until then
            slot.tickets.append(ticket)
            slot.holds[id(ticket)] = ticket
            self._flying.append((slot, ticket, payload))

    def read(self, slot: Slot, key: EntryKey) -> Tensor:
        """Return the payload where it lies; its slot is kept until the tensor's storage dies."""
        if slot.tickets:
            slot.finish()
        # Torch holds this very array as long as any tensor looks at it, views of views included.
        lent = array_over(self._memory(slot), slot.shape, slot.dtype)
        reference = weakref.ref(lent, partial(_give_back, self._released, slot))
        slot.holds[id(reference)] = reference  # an array has no hash, and so has its reference
        return tensor_over(lent, slot.dtype)

    def resize(self, cap_bytes: int) -> None:
        """Map more memory, or give the pages of free extents back to the system."""
        spans = [(base, len(array)) for base, _, array in self._maps]
        missing = cap_bytes - sum(size - size % _ALIGN for _, size in spans)
        if missing >= _ALIGN:
            mapped = self._map(missing)
            base = spans[-1][0] + spans[-1][1]
            # No extent may lie in two maps: there is a hole between them.
            self._maps.append((base + 2 * _ALIGN - base % _ALIGN, *mapped))
            spans.append((self._maps[-1][0], missing))
        elif cap_bytes < self.cap_bytes and not self._pinned and hasattr(mmap, "MADV_DONTNEED"):
            self.allocator.lay(spans)
            for start, size in self.allocator.gaps():
                self._forget(start, size)
        self.allocator.lay(_first(spans, cap_bytes))
        self.cap_bytes = cap_bytes

    def _map(self, nbytes: int) -> tuple[mmap.mmap, NDArray[np.uint8]]:
        memory = mmap.mmap(-1, max(nbytes, mmap.PAGESIZE), **_OWN)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)  # far fewer faults on first touch
        array = np.frombuffer(memory, dtype=np.uint8)
        if self._pinned:
            _register(array)
        return memory, array

    def _memory(self, slot: Slot) -> NDArray[np.uint8]:
        offset = slot.offset
        base, _, array = self._maps[0]
        if len(self._maps) > 1:
            base, _, array = next(m for m in reversed(self._maps) if m[0] <= offset)
        return array[offset - base : offset - base + slot.nbytes]

    def _drop_hold(self, slot: Slot, hold: object) -> None:
        del slot.holds[id(hold)]
        self._give_if_free(slot)

    def _forget(self, start: int, size: int) -> None:
        base, memory, array = next(m for m in reversed(self._maps) if m[0] <= start)
        first = -(-(start - base) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = min(start - base + size, len(array)) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            memory.madvise(mmap.MADV_DONTNEED, first, last - first)


def _give_back(released: deque[tuple[Slot, Any]], slot: Slot, reference: Any) -> None:
    released.append((slot, reference))


def _first(spans: list[tuple[int, int]], nbytes: int) -> list[tuple[int, int]]:
    """Take so many bytes of spans, from the first one on."""
    taken = []
    for start, size in spans:
        taken.append((start, min(size, nbytes)))
        nbytes -= min(size - size % _ALIGN, nbytes)
        if nbytes < _ALIGN:
            break
    return taken


def _register(array: NDArray[np.uint8]) -> None:
    """Pin memory for copies beside the computation, for as long as the array lives."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = array.ctypes.data
    code = int(runtime.cudaHostRegister(address, array.nbytes, 0))
    if code:
        raise MemoryError(f"cannot pin {array.nbytes} bytes of host memory: CUDA error {code}")
    weakref.finalize(array, runtime.cudaHostUnregister, address)
