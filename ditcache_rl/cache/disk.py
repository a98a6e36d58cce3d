"""The disk tier: one preallocated file without a name, every entry under a checksum."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from ditcache_rl.cache.workers import Job, Urgency, Workers
from ditcache_rl.errors import CacheCorruptionError
from ditcache_rl.types import EntryKey

_ALIGN = 4096  # of the page cache and of the file system
#: From here on a second core reads one half, or hashes what the first one writes; below, handing it
#: over costs more.
_SPLIT_FROM = 1 << 20
_BESIDE_FROM = 1 << 19
#: From here on memory for loads is kept for the next ones.
_POOL_FROM = 1 << 16
#: Buffers of loads that are kept for the next one: fresh memory is slower than the disk's cache.
_SPARE_BUFFERS = 4


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
        self.io, self._workers = io, workers
        folder_fd = open_folder(folder)
        try:
            self.fd = io.open_slab(folder_fd, folder)
        finally:
            os.close(folder_fd)
        self._direct = io.open_beside_cache(self.fd)
        self._close = weakref.finalize(self, _close_all, io, self.fd, self._direct)
        self._gate = threading.Lock()
        self._inside, self._shut = 0, False
        #: Bytes of the file: more than the slab while something behind its end is in use.
        self._length = self.allocator.end
        try:
            if self._length:
                io.allocate(self.fd, self._length)
        except OSError:
            self._close()
            raise
        self._buffers = _Buffers()

    def write(
        self, slot: Slot, key: EntryKey, payload: Tensor, check: torch.dtype | None = None
    ) -> None:
        """Check, hash and write a payload."""
        data = (payload.cpu() if payload.is_cuda else payload).numpy()
        self._enter()
        try:
            if slot.nbytes < _BESIDE_FROM:
                require_finite(data, check)
                slot.seal = (xxhash.xxh3_64_intdigest(data.data, seed_of(key, slot.serial, 0)),)
                write_all(self.io, self.fd, data.data, slot.offset)
                return
            parts = _parts(slot, key)
            # Writers of one file wait for each other, so that two halves would take as long.
            job = self._workers.submit(partial(_check_and_hash, check, data, parts), Urgency.READ)
            try:
                write_all(self.io, self.fd, data.data, slot.offset)
            finally:
                job.end()
            slot.seal = _outcome(job)
        finally:
            self._leave()

    def read(self, slot: Slot, key: EntryKey) -> Tensor:
        """Read a payload into fresh memory and compare checksums."""
        room, memory = self._buffers.take(slot.nbytes)
        found: tuple[int, ...]
        self._enter()
        try:
            if slot.nbytes < _BESIDE_FROM:
                read_all(self.io, self.fd, memory.data, slot.offset)
                found = (xxhash.xxh3_64_intdigest(memory.data, seed_of(key, slot.serial, 0)),)
            elif len(parts := _parts(slot, key)) == 1:
                found = (self._read_and_hash(room, slot.offset, parts[0]),)
            else:
                move = partial(self._read_and_hash, room, slot.offset)
                job = self._workers.submit(partial(move, parts[1]), Urgency.READ)
                try:
                    first = move(parts[0])
                finally:
                    job.end()
                found = first, _outcome(job)
        finally:
            self._leave()
        if found != slot.seal:
            raise CacheCorruptionError(
                f"{key}: expected checksum {slot.seal}, received {found} from "
                f"{slot.nbytes} bytes at {slot.offset} in {self.folder}"
            )
        return torch.from_numpy(memory)

    def _read_and_hash(self, room: NDArray[np.uint8], offset: int, part: _Part) -> int:
        """Read a part from the page cache if it is there, else from the disk itself."""
        start, stop, seed = part
        if self._direct is not None:
            cached = self.io.cached_bytes(self.fd, offset + start, stop - start)
            if cached is not None and cached < stop - start:
                self._read_beside_cache(room[start:].data, stop - start, offset + start)
                return xxhash.xxh3_64_intdigest(room[start:stop].data, seed)
        digest = xxhash.xxh3_64(seed=seed)
        for first in range(start, stop, CHUNK_BYTES):
            chunk = room[first : min(first + CHUNK_BYTES, stop)].data
            read_all(self.io, self.fd, chunk, offset + first)
            digest.update(chunk)
        return digest.intdigest()

    def _read_beside_cache(self, room: memoryview, nbytes: int, offset: int) -> None:
        """Read in one go; what comes short of it takes the usual way."""
        assert self._direct is not None
        done = 0
        with suppress(InterruptedError):
            done = self.io.preadv(self._direct, room[: _whole(nbytes)], offset)
        if done < nbytes:
            read_all(self.io, self.fd, room[done:nbytes], offset + done)

    def resize(self, cap_bytes: int) -> None:
        """Take more blocks, or give back those at the end that nothing uses."""
        end = cap_bytes - cap_bytes % _ALIGN
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
        """Also give blocks behind the end back, for which it was too early or that failed."""
        super().settle()
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

    def _enter(self) -> None:
        """Keep the file open until `_leave`; raises OSError if it is closed."""
        with self._gate:
            if self._shut:
                raise OSError(errno.EBADF, "the disk tier is closed")
            self._inside += 1

    def _leave(self) -> None:
        with self._gate:
            self._inside -= 1
            last = self._shut and not self._inside
        if last:
            self._close()


class _Part(NamedTuple):
    """A part of an entry that has a checksum of its own."""

    start: int
    stop: int
    seed: int


def _parts(slot: Slot, key: EntryKey) -> list[_Part]:
    """Divide an entry: a large one in two, which two cores can read."""
    nbytes, serial = slot.nbytes, slot.serial
    if nbytes < _SPLIT_FROM:
        return [_Part(0, nbytes, seed_of(key, serial, 0))]
    middle = nbytes // 2 // CHUNK_BYTES * CHUNK_BYTES
    return [
        _Part(0, middle, seed_of(key, serial, 0)),
        _Part(middle, nbytes, seed_of(key, serial, 1)),
    ]


def _outcome(job: Job) -> Any:
    if job.error is not None:
        raise job.error
    return job.result


def _check_and_hash(
    check: torch.dtype | None, data: NDArray[np.uint8], parts: Sequence[_Part]
) -> tuple[int, ...]:
    digests = []
    for start, stop, seed in parts:
        digest = xxhash.xxh3_64(seed=seed)
        for first in range(start, stop, CHUNK_BYTES):
            chunk = data[first : min(first + CHUNK_BYTES, stop)]
            require_finite(chunk, check)
            digest.update(chunk.data)
        digests.append(digest.intdigest())
    return tuple(digests)


def _whole(nbytes: int) -> int:
    """Round up to what a read beside the page cache can take."""
    return -(-nbytes // _ALIGN) * _ALIGN


def _close_all(io: SystemIO, *files: int | None) -> None:
    for fd in files:
        if fd is not None:
            io.close(fd)


class _Buffers:
    """Memory for loads, used again when the tensors over it have died.

    Large fresh memory costs a page fault every 4 KiB, which takes longer than reading.
    """

    def __init__(self) -> None:
        self._idle: deque[NDArray[np.uint8]] = deque(maxlen=_SPARE_BUFFERS)
        self._lent: dict[int, Any] = {}

    def take(self, nbytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return aligned memory whose contents do not matter, and the part of it that is lent."""
        if nbytes < _POOL_FROM:
            small = np.empty(nbytes, dtype=np.uint8)
            return small, small
        whole = _whole(nbytes)
        room: NDArray[np.uint8] | None = None
        while room is None and self._idle:
            try:
                idle = self._idle.popleft()
            except IndexError:  # another thread was faster
                break
            room = idle if idle.nbytes == whole else None
        if room is None:
            padded = np.empty(whole + _ALIGN, dtype=np.uint8)
            start = -padded.ctypes.data % _ALIGN
            room = padded[start : start + whole]
        lent = room[:nbytes]
        reference = weakref.ref(lent, partial(self._back, room))
        self._lent[id(reference)] = reference  # an array has no hash, and so has its reference
        return room, lent

    def _back(self, memory: NDArray[np.uint8], reference: Any) -> None:
        self._lent.pop(id(reference), None)
        self._idle.append(memory)
