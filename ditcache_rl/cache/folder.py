"""Which directory may hold the disk tier, and what kind of file system it lies on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ditcache_rl.errors import ConfigError

#: File systems that keep their files in main memory.
_MEMORY = frozenset({"tmpfs", "ramfs"})


def open_folder(path: Path) -> int:
    """Open a directory for the cache, making it if it is not there; return its descriptor.

    It must be a directory and no link to one, belong to this user, and be writable by nobody else:
    whoever may write there could put a link where a file is expected.

    Raises:
        ConfigError: If it is none of that, or cannot be made or written.
    """
    asked = f"{path}: expected a cache directory of this user that only they may write to"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = error.strerror if isinstance(error, OSError) else error
        link = " (a symbolic link)" if _is_link(path) else ""
        raise ConfigError(f"{asked}, received {why}{link}") from error
    found = os.fstat(fd)
    complaint = None
    if found.st_uid != os.geteuid():
        complaint = f"one of user {found.st_uid}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        complaint = f"mode {stat.S_IMODE(found.st_mode):o}; name a new one, or chmod 700 it"
    elif not os.access(path, os.W_OK | os.X_OK):
        complaint = "one that cannot be written"
    if complaint is not None:
        os.close(fd)
        raise ConfigError(f"{asked}, received {complaint}")
    return fd


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:
        return False


def is_memory(path: Path) -> bool:
    """Tell whether a directory lies in main memory (tmpfs), where a disk tier would cost RAM."""
    return file_system(path) in _MEMORY


def file_system(path: Path) -> str:
    """Name the file system of a path, "unknown" where the system does not say."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"
