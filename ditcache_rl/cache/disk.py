"""The disk tier: one preallocated file without a name, every entry under a checksum."""

from __future__ import annotations

import errno
import os
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.cache.buffers import PAGE_BYTES, Buffers, whole_pages
from ditcache_rl.cache.folder import open_folder
from ditcache_rl.cache.integrity import (
    NotFiniteError,
    array_is_finite,
    array_of,
    bytes_of,
    seed_of,
    tensor_over,
)
from ditcache_rl.cache.io import SystemIO, read_all, write_all
from ditcache_rl.cache.slab import Slot
from ditcache_rl.cache.tier import SlotTier
from ditcache_rl.cache.workers import Urgency, Workers
from ditcache_rl.errors import CacheCorruptionError
from ditcache_rl.types import EntryKey

#: Bytes that are checked, hashed and moved in one go, so that the second of these finds them in the
#: core's own cache (1 to 2 MiB today). Of more than one part a second core does its share.
_PART_BYTES = 1 << 20
#: From here on it pays to ask whether the page cache has a part.
_BESIDE_FROM = 1 << 19


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
        super().__init__(cap_bytes, align=PAGE_BYTES)
        self.folder = folder
        self.io, self._workers = io, workers
        folder_fd = open_folder(folder)
        try:
            self.fd = io.open_slab(folder_fd, folder)
        finally:
            os.close(folder_fd)
        self._direct = io.open_beside_cache(self.fd)
        self._close = weakref.finalize(self, _close_all, io, self.fd, self._direct)
        #: One for each thread that uses the file.
        self._inside: list[None] = []
        self._shut = False
        #: Bytes of the file: more than the slab while something behind its end is in use.
        self._length = self.allocator.end
        try:
            if self._length:
                io.allocate(self.fd, self._length)
        except OSError:
            self._close()
            raise
        self._buffers = Buffers()

    def write(self, slot: Slot, key: EntryKey, payload: Tensor, *, check: bool = False) -> None:
        """Check, hash and write a payload."""
        array = array_of(payload.cpu() if payload.is_cuda else payload)
        data, dtype = bytes_of(array).data, slot.dtype
        self._enter()
        try:
            if slot.nbytes <= _PART_BYTES:
                if check and not array_is_finite(array, dtype):
                    raise NotFiniteError
                slot.seal = (xxhash.xxh3_64_intdigest(data, seed_of(key, slot.serial, 0)),)
                write_all(self.io, self.fd, data, slot.offset)
                return

            def seal(start: int) -> int:
                part = data[start : start + _PART_BYTES]
                if check and not array_is_finite(np.frombuffer(part, array.dtype), dtype):
                    raise NotFiniteError
                return xxhash.xxh3_64_intdigest(part, seed_of(key, slot.serial, start))

            # Writers of one file wait for each other: who does not write checks and hashes.
            write = partial(write_all, self.io, self.fd, data, slot.offset)
            slot.seal = self._share(seal, slot.nbytes, write)
        finally:
            self._leave()

    def read(self, slot: Slot, key: EntryKey) -> Tensor:
        """Read a payload into fresh memory and compare checksums."""
        room, lent = self._buffers.take(slot)
        found: tuple[int, ...]
        self._enter()
        try:
            if slot.nbytes <= _PART_BYTES:
                found = (self._read_and_hash(room, slot, key, 0),)
            else:
                read = partial(self._read_and_hash, room, slot, key)
                found = self._share(read, slot.nbytes)
        finally:
            self._leave()
        if found != slot.seal:
            raise CacheCorruptionError(
                f"{key}: expected checksum {slot.seal}, received {found} from "
                f"{slot.nbytes} bytes at {slot.offset} in {self.folder}"
            )
        return tensor_over(lent, slot.dtype)

    def _share(
        self, do: Callable[[int], int], nbytes: int, first: Callable[[], None] | None = None
    ) -> tuple[int, ...]:
        """Do something with each part of an entry, by this thread and a worker if one is free.

        Args:
            do: Takes the offset of a part and returns its checksum.
            nbytes: Of the entry.
            first: What this thread does before it helps.
        """
        starts = range(0, nbytes, _PART_BYTES)
        left, digests = deque(starts), dict.fromkeys(starts, 0)

        def work() -> None:
            with suppress(IndexError):  # nothing left
                while True:
                    start = left.popleft()
                    digests[start] = do(start)

        job = self._workers.submit(work, Urgency.READ)
        try:
            if first is not None:
                first()
            work()
        finally:
            left.clear()
            job.end()
        if job.error is not None:
            raise job.error
        return tuple(digests.values())

    def _read_and_hash(self, room: NDArray[np.uint8], slot: Slot, key: EntryKey, start: int) -> int:
        """Read a part, from the page cache if it is there, else from the disk itself."""
        nbytes, offset = min(slot.nbytes - start, _PART_BYTES), slot.offset + start
        part = room[start : start + nbytes].data
        cached: int | None = nbytes
        if nbytes >= _BESIDE_FROM and self._direct is not None:
            cached = self.io.cached_bytes(self.fd, offset, nbytes)
        if cached is None or cached >= nbytes:
            read_all(self.io, self.fd, part, offset)
        else:
            self._read_beside_cache(room[start:].data, nbytes, offset)
        return xxhash.xxh3_64_intdigest(part, seed_of(key, slot.serial, start))

    def _read_beside_cache(self, room: memoryview, nbytes: int, offset: int) -> None:
        """Read in one go; what comes short of it takes the usual way."""
        assert self._direct is not None
        done = 0
        with suppress(InterruptedError):
            done = self.io.preadv(self._direct, room[: whole_pages(nbytes)], offset)
        if done < nbytes:
            read_all(self.io, self.fd, room[done:nbytes], offset + done)

    def resize(self, cap_bytes: int) -> None:
        """Take more blocks, or give back those at the end that nothing uses."""
        end = cap_bytes - cap_bytes % PAGE_BYTES
        if end > self.allocator.end:
            self._length = max(self._length, end)  # also if only a part of it is to be had
            self._enter()
            try:
                self.io.allocate(self.fd, self._length)
            except OSError:
                self._trim()
                raise
            finally:
                self._leave()
        self.allocator.lay([(0, end)])
        self.cap_bytes = cap_bytes
        self._trim()

    def settle(self) -> None:
        """Give blocks behind the end back, for which it was too early or that failed."""
        if self._length > self.allocator.end:
            self._trim()

    def _trim(self) -> None:
        """Cut the file behind the last extent; `settle` tries again what fails."""
        reach = self.allocator.reach
        if self._length > reach:
            with suppress(OSError):
                self._enter()
                try:
                    self.io.truncate(self.fd, reach)
                    self._length = reach
                finally:
                    self._leave()

    def make_cold(self) -> None:
        """Make the next reads come from the disk itself."""
        self.io.make_cold(self.fd)

    def held_bytes(self) -> int:
        """Return what the slab occupies on disk, as the system counts it."""
        return self.io.held_bytes(self.fd)

    def close(self) -> None:
        """Close the file, which is the end of it, as soon as nobody reads or writes any more.

        Its number may then belong to somebody else's file. Calling it twice is harmless.
        """
        self._shut = True
        if not self._inside:
            self._close()

    def let_go(self) -> None:
        """Close a forked child's copy of the file, for which nobody there waits.

        Otherwise threads that the child has not would keep it, and the parent's blocks with it.
        """
        self._close()

    def _enter(self) -> None:
        """Keep the file open until `_leave`; raises OSError if it is closed.

        Who enters says so before looking, and who shuts before counting: one of them sees the
        other, without a lock.
        """
        self._inside.append(None)
        if self._shut:
            self._leave()
            raise OSError(errno.EBADF, "the disk tier is closed")

    def _leave(self) -> None:
        self._inside.pop()
        if self._shut and not self._inside:
            self._close()


def _close_all(io: SystemIO, *files: int | None) -> None:
    for fd in files:
        if fd is not None:
            io.close(fd)
