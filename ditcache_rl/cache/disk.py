"""The disk tier: one preallocated file without a name, every entry under a checksum."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.cache.folder import open_folder
from ditcache_rl.cache.integrity import require_finite, seed_of
from ditcache_rl.cache.io import SystemIO, read_all, write_all
from ditcache_rl.cache.slab import Slot
from ditcache_rl.cache.tier import CHUNK_BYTES, SlotTier
from ditcache_rl.cache.workers import Urgency, Workers
from ditcache_rl.errors import CacheCorruptionError
from ditcache_rl.types import EntryKey

_ALIGN = 4096  # of the page cache and of the file system
#: From here on a second core takes half of the work; below, handing it over costs more.
_SPLIT_FROM = 3 << 20
#: Buffers of loads that are kept for the next one: fresh memory is slower than the disk's cache.
_SPARE_BUFFERS = 2


class DiskTier(SlotTier):
    """Entries in a slab on disk.

    The file has no name: when the process ends, however it ends, nothing is left. Its blocks are
    taken when the tier is made, so that a disk that fills up later takes nothing away.

    Args:
        cap_bytes: Size of the slab.
        folder: Where it lies; see `open_folder`.
        io: System calls.
        workers: Help with large entries.

    Raises:
        ConfigError: If the folder is not fit.
        OSError: If the disk has no room.
    """

    def __init__(self, cap_bytes: int, folder: Path, io: SystemIO, workers: Workers) -> None:
        super().__init__(cap_bytes, align=_ALIGN)
        self.folder = folder
        self._io, self._workers = io, workers
        folder_fd = open_folder(folder)
        try:
            self.fd = io.open_slab(folder_fd, folder)
        finally:
            os.close(folder_fd)
        self._close = weakref.finalize(self, io.close, self.fd)
        self._gate = threading.Lock()
        self._inside, self._shut = 0, False
        try:
            io.allocate(self.fd, max(self.allocator.capacity, _ALIGN))
        except OSError:
            self._close()
            raise
        self._buffers = _Buffers()

    def write(
        self, slot: Slot, key: EntryKey, payload: Tensor, check: torch.dtype | None = None
    ) -> None:
        """Check, hash and write a payload."""
        data = (payload.cpu() if payload.is_cuda else payload).numpy()
        move = partial(_hash_and_write, self._io, self.fd, check)
        with self._open():
            slot.seal = self._in_parts(slot, key, data, Urgency.WRITE, move)

    def read(self, slot: Slot, key: EntryKey) -> Tensor:
        """Read a payload into fresh memory and compare checksums."""
        memory = self._buffers.take(slot.nbytes)
        move = partial(_read_and_hash, self._io, self.fd)
        with self._open():
            found = self._in_parts(slot, key, memory, Urgency.READ, move)
        if found != slot.seal:
            raise CacheCorruptionError(
                f"{key}: expected checksum {slot.seal}, received {found} from "
                f"{slot.nbytes} bytes at {slot.offset} in {self.folder}"
            )
        return torch.from_numpy(memory)

    def resize(self, cap_bytes: int) -> None:
        """Take more blocks, or give back those at the end that nothing uses."""
        missing = cap_bytes - self.allocator.capacity
        if missing > 0:
            # The hole between the two slabs is one slot.
            self._io.allocate(self.fd, self.allocator.end + _ALIGN + missing)
            self.allocator.grow(missing)
        else:
            self.allocator.cut(cap_bytes)
            self._io.truncate(self.fd, self.allocator.end)
        self.cap_bytes = cap_bytes

    def make_cold(self) -> None:
        """Make the next reads come from the disk itself."""
        self._io.make_cold(self.fd)

    def held_bytes(self) -> int:
        """Return what the slab occupies on disk, as the system counts it."""
        return self._io.held_bytes(self.fd)

    def close(self) -> None:
        """Close the file, which is the end of it, as soon as nobody reads or writes any more.

        Its number may then belong to somebody else's file. Calling it twice is harmless.
        """
        with self._gate:
            self._shut = True
            if self._inside:
                return
        self._close()

    def let_go(self) -> None:
        """Close a forked child's copy of the file, for which nobody there waits.

        Otherwise threads that the child has not would keep it, and the parent's blocks with it.
        """
        self._close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Keep the file open inside of the block; raises OSError if it is closed."""
        with self._gate:
            if self._shut:
                raise OSError(errno.EBADF, "the disk tier is closed")
            self._inside += 1
        try:
            yield
        finally:
            with self._gate:
                self._inside -= 1
                last = self._shut and not self._inside
            if last:
                self._close()

    def _in_parts(
        self,
        slot: Slot,
        key: EntryKey,
        data: NDArray[np.uint8],
        urgency: Urgency,
        move: Callable[[NDArray[np.uint8], int, int], int],
    ) -> tuple[int, ...]:
        """Move all of an entry, half of a large one on another core; return the checksums."""
        if slot.nbytes < _SPLIT_FROM:
            return (move(data, slot.offset, seed_of(key, slot.serial, 0)),)
        middle = slot.nbytes // 2 // CHUNK_BYTES * CHUNK_BYTES
        half = partial(move, data[middle:], slot.offset + middle, seed_of(key, slot.serial, 1))
        job = self._workers.submit(half, urgency)
        try:
            first = move(data[:middle], slot.offset, seed_of(key, slot.serial, 0))
        finally:
            if not job.run():
                job.wait()  # whatever happens, nobody touches the buffer after this call
        if job.error is not None:
            raise job.error
        return first, job.result


def _hash_and_write(
    io: SystemIO,
    fd: int,
    check: torch.dtype | None,
    data: NDArray[np.uint8],
    offset: int,
    seed: int,
) -> int:
    digest = xxhash.xxh3_64(seed=seed)
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        if check is not None:
            require_finite(chunk, check)
        digest.update(chunk.data)
        write_all(io, fd, chunk.data, offset + start)
    return digest.intdigest()


def _read_and_hash(io: SystemIO, fd: int, data: NDArray[np.uint8], offset: int, seed: int) -> int:
    digest = xxhash.xxh3_64(seed=seed)
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        read_all(io, fd, chunk.data, offset + start)
        digest.update(chunk.data)
    return digest.intdigest()


class _Buffers:
    """Memory for loads, used again when the tensors over it have died.

    Large fresh memory costs a page fault every 4 KiB, which takes longer than reading.
    """

    def __init__(self) -> None:
        self._idle: deque[NDArray[np.uint8]] = deque(maxlen=_SPARE_BUFFERS)
        self._lent: dict[int, Any] = {}

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Return memory whose contents do not matter."""
        memory = None
        while memory is None and self._idle:
            try:
                idle = self._idle.popleft()
            except IndexError:  # another thread was faster
                break
            memory = idle if idle.nbytes == nbytes else None
        if memory is None:
            memory = np.empty(nbytes, dtype=np.uint8)
        lent = memory[:]
        reference = weakref.ref(lent, partial(self._back, memory))
        self._lent[id(reference)] = reference  # an array has no hash, and so has its reference
        return lent

    def _back(self, memory: NDArray[np.uint8], reference: Any) -> None:
        self._lent.pop(id(reference), None)
        self._idle.append(memory)
