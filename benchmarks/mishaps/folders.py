"""Directories that somebody has prepared, and what a store leaves in a good one."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.mishaps.outcome import CRASH, LEAKED, WRONG, Beat, CaseOutcome, Findings
from ditcache_rl.cache import Memory, TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import EntryKey, Tier

_MIB = 1 << 20
_SECRET = b"somebody else's"
_STRANGER = 12345


class _Site(NamedTuple):
    """Where traps are laid."""

    root: Path
    target: Path
    """A file that nobody may touch."""
    real: Path
    """A directory that would be fit."""


def _made(path: Path, make: Callable[[Path], object]) -> Path:
    make(path)
    return path


def _mode(mode: int) -> Callable[[_Site], Path]:
    def lay(site: _Site) -> Path:
        path = site.root / f"mode-{mode:o}"
        path.mkdir()
        path.chmod(mode)
        return path

    return lay


def _foreign(uid: int, gid: int, mode: int) -> Callable[[_Site], Path]:
    def lay(site: _Site) -> Path:
        path = site.root / f"foreign-{uid}-{gid}-{mode:o}"
        path.mkdir(mode=mode)
        os.chown(path, uid, gid)
        return path

    return lay


def _bound_socket(site: _Site) -> Path:
    path = site.root / "socket"
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(site.root)  # the name of a socket must be short
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
    return path


def _descriptor(site: _Site) -> Path:
    """A link of /proc to a directory; left open for the few moments of the case."""
    return Path(f"/proc/self/fd/{os.open(site.real, os.O_RDONLY)}")


#: Twenty ways to prepare a directory, by name.
TRAPS: dict[str, Callable[[_Site], Path]] = {
    "link to a directory": lambda s: _made(s.root / "a", lambda p: p.symlink_to(s.real)),
    "link to a file": lambda s: _made(s.root / "b", lambda p: p.symlink_to(s.target)),
    "link to nothing": lambda s: _made(s.root / "c", lambda p: p.symlink_to(s.root / "none")),
    "link to itself": lambda s: _made(s.root / "d", lambda p: p.symlink_to(p)),
    "link to a link": lambda s: _made(
        s.root / "e", lambda p: p.symlink_to(_made(s.root / "f", lambda q: q.symlink_to(s.real)))
    ),
    "link of /proc": _descriptor,
    "file": lambda s: _made(s.root / "g", lambda p: p.write_bytes(_SECRET)),
    "hard link to a file": lambda s: _made(s.root / "h", lambda p: p.hardlink_to(s.target)),
    "below a file": lambda s: s.target / "sub",
    "fifo": lambda s: _made(s.root / "i", os.mkfifo),
    "socket": _bound_socket,
    "device": lambda s: Path("/dev/null"),
    "writable by all": _mode(0o777),
    "writable by all, sticky": _mode(0o1777),
    "writable by its group": _mode(0o770),
    "writable by others only": _mode(0o702),
    "of another user": _foreign(_STRANGER, -1, 0o700),
    "of another user, readable": _foreign(_STRANGER, _STRANGER, 0o755),
    "name with a zero byte": lambda s: s.root / "zero\0byte",
    "name too long": lambda s: s.root / ("n" * 300),
}


def refused(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Offer prepared directories, so many of them; each must be refused with a clear error."""
    found, skipped = Findings(), []
    root = folder / "traps"
    site = _Site(root, root / "target", root / "real")
    root.mkdir(parents=True)
    site.real.mkdir(mode=0o700)
    site.target.write_bytes(_SECRET)
    site.target.chmod(0o640)
    before = site.target.stat()
    for name, lay in list(TRAPS.items())[:amount]:
        try:
            path = lay(site)
        except PermissionError as error:
            skipped.append(f"{name}: {error}")
            continue
        for offer in (_open, _resolve):
            _must_refuse(found, name, lambda: offer(path))  # noqa: B023 - called at once
        after = site.target.stat()
        same = (after.st_mode, after.st_size, after.st_mtime_ns) == (
            before.st_mode,
            before.st_size,
            before.st_mtime_ns,
        )
        whole = same and site.target.read_bytes() == _SECRET
        found.expect(whole, WRONG, f"{name}: its target was changed")
        found.expect(not list(site.real.iterdir()), WRONG, f"{name}: something was put behind it")
        beat()
    _modes(found, folder)
    tried = min(amount, len(TRAPS)) - len(skipped)
    return found.outcome(cases=tried, **({"skipped": skipped} if skipped else {}))


def _open(path: Path) -> None:
    TieredCache(None, None, _MIB, cache_dir=path).close()


def _resolve(path: Path) -> None:
    Memory(disk=_MIB, dir=path).caps(torch.device("cpu"))


def _must_refuse(found: Findings, name: str, offer: Callable[[], None]) -> None:
    try:
        offer()
    except ConfigError as error:
        found.expect("cache directory" in str(error), WRONG, f"{name}: an unclear error, {error}")
    except Exception as error:
        found.add(CRASH, f"{name}: {error!r}")
    else:
        found.add(WRONG, f"{name}: accepted")


def _modes(found: Findings, folder: Path) -> None:
    """Open a store where nothing was prepared, under a umask that forbids nothing."""
    path = folder / "good"
    before = os.umask(0)
    try:
        cache = TieredCache(None, None, _MIB, cache_dir=path)
    finally:
        os.umask(before)
    cache.put(EntryKey(0, 0, 0, 0), torch.ones(9), Tier.DISK)
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)
    file, directory = os.fstat(disk.fd), path.stat()
    found.expect(stat.S_IMODE(directory.st_mode) == 0o700, WRONG, f"mode {directory.st_mode:o}")
    found.expect(stat.S_IMODE(file.st_mode) == 0o600, WRONG, f"mode {file.st_mode:o}")
    found.expect(not list(path.iterdir()), LEAKED, "the slab has a name")
    found.expect(not os.get_inheritable(disk.fd), LEAKED, "programs that are started inherit it")
    cache.close()
