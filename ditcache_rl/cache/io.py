"""Every system call of the disk tier, so that tests can make each of them fail.

Nothing here knows tensors or entries. A writable memory map is never used: a full disk or a
truncated file under a mapping kills the process instead of raising an error.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
import tempfile
import time
from pathlib import Path

Buffer = memoryview

#: Linux from 6.5 on counts the pages of a file that are in memory; no library offers the call yet.
#: Its number is the same on all machines.
_CACHESTAT_NUMBER = 451
_CACHESTAT = struct.Struct("=5Q")
_CACHESTAT_CALL = ctypes.CDLL(None).syscall if sys.platform == "linux" else None


class SystemIO:
    """The system calls themselves, each one once; a test's own class lets them fail.

    Errors are `OSError`. Transfers may be short or interrupted: callers use `write_all` and
    `read_all`.
    """

    def open_slab(self, folder_fd: int, folder: Path) -> int:
        """Open a file without a name, readable by nobody else, that ends with the process.

        Where the file system has no such files, one with a random name is unlinked at once.
        """
        anonymous = getattr(os, "O_TMPFILE", 0)
        flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
        if anonymous:
            try:
                return os.open(".", flags | anonymous, 0o600, dir_fd=folder_fd)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                    raise
        fd, name = tempfile.mkstemp(prefix="slab-", dir=folder)
        Path(name).unlink()
        return fd

    def allocate(self, fd: int, nbytes: int) -> None:
        """Give a file its blocks on disk now, so that a full disk shows here and not later."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, nbytes)
        else:
            os.ftruncate(fd, nbytes)

    def truncate(self, fd: int, nbytes: int) -> None:
        """Give blocks back."""
        os.ftruncate(fd, nbytes)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """Write some bytes; return how many."""
        return os.pwrite(fd, data, offset)

    def open_beside_cache(self, fd: int) -> int | None:
        """Open a file again for reads that bypass the page cache; None where the system cannot.

        Such reads take an aligned buffer, offset and length. They keep the processor out of it, and
        leave no second copy in memory.
        """
        if not hasattr(os, "O_DIRECT") or self.cached_bytes(fd, 0, 1) is None:
            return None
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return None

    def cached_bytes(self, fd: int, offset: int, nbytes: int) -> int | None:
        """Return what the page cache has of a part of a file; None where the system does not say.

        A read that must not wait would tell too, and start one that does.
        """
        where = struct.pack("=2Q", offset, nbytes)
        found = ctypes.create_string_buffer(_CACHESTAT.size)
        if _CACHESTAT_CALL is None or _CACHESTAT_CALL(_CACHESTAT_NUMBER, fd, where, found, 0):
            return None
        pages: int = _CACHESTAT.unpack(found.raw)[0]
        return pages * mmap.PAGESIZE

    def preadv(self, fd: int, data: Buffer, offset: int) -> int:
        """Read some bytes; return how many."""
        return os.preadv(fd, [data], offset)

    def held_bytes(self, fd: int) -> int:
        """Return the bytes that a file occupies on disk."""
        return os.fstat(fd).st_blocks * 512

    def free_bytes(self, folder: Path) -> int:
        """Return the bytes of a file system that are free for this user."""
        space = os.statvfs(folder)
        return space.f_bavail * space.f_frsize

    def total_bytes(self, folder: Path) -> int:
        """Return the size of a file system."""
        space = os.statvfs(folder)
        return space.f_blocks * space.f_frsize

    def make_cold(self, fd: int) -> None:
        """Write a file out and forget its pages, so that the next read comes from the disk."""
        os.fdatasync(fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        return time.perf_counter()

    def close(self, fd: int) -> None:
        """Close a file."""
        os.close(fd)


def write_all(io: SystemIO, fd: int, data: Buffer, offset: int) -> None:
    """Write all of a buffer, through interruptions and short writes.

    Raises:
        OSError: If the system refuses, or accepts nothing.
    """
    done = 0
    while done < len(data):
        try:
            written = io.pwrite(fd, data[done:] if done else data, offset + done)
        except InterruptedError:
            continue
        if written <= 0:
            raise OSError(errno.EIO, f"wrote {done} of {len(data)} bytes")
        done += written


def read_all(io: SystemIO, fd: int, data: Buffer, offset: int) -> None:
    """Fill all of a buffer, through interruptions and short reads.

    Raises:
        OSError: If the system refuses, or the file ends before.
    """
    done = 0
    while done < len(data):
        try:
            read = io.preadv(fd, data[done:] if done else data, offset + done)
        except InterruptedError:
            continue
        if read <= 0:
            raise OSError(errno.EIO, f"read {done} of {len(data)} bytes")
        done += read
