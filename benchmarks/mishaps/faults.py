"""System calls that fail, disks that fill up, files that are cut short."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks.mishaps.children import Child, private_disk
from benchmarks.mishaps.faulty import FAULTS, FaultyIO
from benchmarks.mishaps.machine import Twins
from benchmarks.mishaps.outcome import CRASH, HANG, WRONG, Beat, CaseOutcome, Findings, same_bits
from ditcache_rl.cache import TieredCache
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import EntryKey, Tier

_MIB = 1 << 20
#: Up to an entry that two threads share.
_SHAPES: tuple[tuple[int, ...], ...] = ((3,), (17, 60), (1300,), (9000,), (230, 100), (800_000,))
_KEY = EntryKey(0, 0, 0, 0)


class FailingIO(FaultyIO):
    """Fails calls that change the file's size as well."""

    def allocate(self, fd: int, nbytes: int) -> None:
        """Find no room."""
        self._fail(errno.ENOSPC)
        super().allocate(fd, nbytes)

    def truncate(self, fd: int, nbytes: int) -> None:
        """Break down."""
        self._fail(errno.EIO)
        super().truncate(fd, nbytes)

    def _fail(self, code: int) -> None:
        if self.rng.random() < 10 * self.rate:  # such calls are rare
            self.injected += 1
            raise OSError(code, os.strerror(code))


class FaultyTwins(Twins):
    """A store whose disk changes its size, and whose system calls may fail then too."""

    def __init__(self, rng: random.Random, found: Findings, cache: TieredCache) -> None:
        super().__init__(rng, found, WRONG, cache, shapes=_SHAPES)
        self._actions += ((self.resize_disk, 1),)
        self.refused = 0

    def resize_disk(self) -> None:
        """Give the disk tier another cap; the old one stays where that is refused."""
        disk = self.cache.slower[Tier.DISK]
        before = disk.cap_bytes
        try:
            self.cache.resize(Tier.DISK, self.rng.randrange(8, 24) * _MIB)
        except OSError:
            self.refused += 1
            self._expect(disk.cap_bytes == before, "the cap changed though resizing failed")


def failing_calls(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Do so many operations while 1 % of the system calls fail or are slow, and again at 20 %.

    Then with transfers that are only cut short or interrupted, of which nobody may notice anything.
    """
    found = Findings()
    details = [_fail(found, 0.01, FAULTS, amount, folder, beat)]
    details.append(_fail(found, 0.2, FAULTS, amount, folder, beat))
    details.append(_fail(found, 0.2, ("short", "eintr"), amount, folder, beat))
    errors = details[-1]["errors"]
    found.expect(not errors, WRONG, f"{errors} errors where nothing failed")
    return found.outcome(operations=amount, rates=details)


def _fail(
    found: Findings, rate: float, kinds: tuple[str, ...], amount: int, folder: Path, beat: Beat
) -> dict[str, float]:
    rng = random.Random(3)
    io = FailingIO(rng, rate=0.0, kinds=kinds, slow_s=0.05)
    cache = TieredCache(_MIB // 16, None, 16 * _MIB, cache_dir=folder, io=io)
    twins = FaultyTwins(rng, found, cache)
    io.rate = rate
    for _ in range(amount):
        _guarded(found, twins.step)
        beat()
    io.rate = 0.0
    twins.end()
    return {
        "rate": rate,
        "injected": io.injected,
        "reads_served": twins.served,
        "disk_hits": cache.stats.disk_hits,
        "errors": cache.stats.errors,
        "resizes_refused": twins.refused,
    }


def cut_files(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Do so many operations while all files of the store are cut short again and again."""
    rng, found, cuts = random.Random(4), Findings(), 0
    cache = TieredCache(4 * _MIB, 4 * _MIB, 16 * _MIB, cache_dir=folder)
    twins = Twins(rng, found, WRONG, cache, shapes=_SHAPES)
    for operation in range(amount):
        if operation % 20 == 0:
            for fd in writable(files_in(folder)):
                os.ftruncate(fd, rng.choice((0, rng.randrange(16 * _MIB))))
                cuts += 1
        _guarded(found, twins.step)
        beat()
    twins.end()
    found.expect(cuts > 0, WRONG, "no file to cut was found")
    return found.outcome(operations=amount, cuts=cuts, errors=cache.stats.errors)


def full_disk(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Fill a disk of 8 MiB under a store: before it is made, while it grows, while it is used."""
    found = Findings()
    child = Child(partial(_on_small_disk, amount, folder))
    ended = child.wait(beat)
    found.expect(not ended.hung, HANG, "on a full disk")
    found.expect(not ended.crashed, CRASH, f"on a full disk: status {ended.status}")
    if ended.result is None:
        return found.outcome()
    if isinstance(ended.result, str):
        return found.outcome(skipped=ended.result)
    return CaseOutcome(found.counts + ended.result.counts, ended.result.details)


def _on_small_disk(amount: int, folder: Path, beat: Beat) -> CaseOutcome | str:
    """Return what was found, or why it could not be tried."""
    folder.mkdir(exist_ok=True)
    try:
        with private_disk(folder, 8 * _MIB):
            return _fill(amount, folder, beat)
    except PermissionError as error:
        return str(error)


def _fill(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    found, rng = Findings(), random.Random(5)
    empty = free_bytes(folder)
    _refused(found, OSError, lambda: TieredCache(0, None, 9 * _MIB, cache_dir=folder))
    found.expect(free_bytes(folder) == empty, WRONG, "a slab that does not fit left bytes")

    cache = TieredCache(0, None, 4 * _MIB, cache_dir=folder)
    tensor = torch.arange(1000)
    cache.put(_KEY, tensor, Tier.DISK)
    with ballast(folder):
        twins = Twins(rng, found, WRONG, cache, requests=range(1, 4), shapes=_SHAPES[:-1])
        twins.model[_KEY] = tensor
        for _ in range(amount):
            _guarded(found, twins.step)
            beat()
        errors = cache.stats.errors
        found.expect(not errors, WRONG, "a preallocated slab met a full disk")
        _refused(found, OSError, lambda: cache.resize(Tier.DISK, 8 * _MIB))
        kept = cache.get(_KEY)
        whole = kept is not None and same_bits(kept, tensor)
        found.expect(whole, WRONG, "an entry was lost in a resize that failed")
        cache.discard(_KEY)
    twins.end()
    found.expect(free_bytes(folder) == empty, WRONG, "bytes left after closing")

    cache = TieredCache(0, None, 4 * _MIB, cache_dir=folder)
    for fd in writable(files_in(folder)):
        os.ftruncate(fd, 0)  # now the slab has to take its blocks again, from a full disk
    with ballast(folder):
        twins = Twins(rng, found, WRONG, cache, shapes=_SHAPES[:-1])
        for _ in range(amount):
            _guarded(found, twins.step)
            beat()
        errors = cache.stats.errors
        found.expect(errors > 0, WRONG, "the disk was not full")
    twins.end()
    found.expect(free_bytes(folder) == empty, WRONG, "bytes left after a full disk")
    return found.outcome(operations=2 * amount, errors=errors)


def no_descriptors(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Open stores, and use one, while the process may open no further file."""
    found, rng = Findings(), random.Random(6)
    cache = TieredCache(4 * _MIB, 4 * _MIB, 16 * _MIB, cache_dir=folder)
    twins = Twins(rng, found, WRONG, cache, shapes=_SHAPES)
    for _ in range(100):  # torch opens files of its own the first time
        _guarded(found, twins.step)
    before = files_in(folder)
    with no_more_files():
        refused = (OSError, ConfigError)
        _refused(found, refused, lambda: TieredCache(0, None, _MIB, cache_dir=folder))
        for _ in range(amount):
            _guarded(found, twins.step)
            beat()
    found.expect(files_in(folder) == before, WRONG, "a store that failed to open left a file open")
    twins.end()
    return found.outcome(operations=amount, reads_served=twins.served)


def _refused(
    found: Findings,
    errors: type[Exception] | tuple[type[Exception], ...],
    act: Callable[[], object],
) -> None:
    """Expect a clear error."""
    try:
        act()
    except errors:
        return
    found.add(WRONG, "something that cannot be done was accepted")


def _guarded(found: Findings, step: Callable[[], None]) -> None:
    """Count what raises into the caller; a model would have died of it."""
    try:
        step()
    except Exception as error:
        found.add(CRASH, repr(error))


def files_in(folder: Path) -> list[int]:
    """List this process's descriptors of files in a folder, those without a name included."""
    device, found = folder.stat().st_dev, []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - needs no descriptor of its own
        try:
            status = os.fstat(int(name))
            path = Path(f"/proc/self/fd/{name}").readlink()
        except OSError:
            continue
        if (
            stat.S_ISREG(status.st_mode)
            and status.st_dev == device
            and path.is_relative_to(folder.resolve())
        ):
            found.append(int(name))
    return found


def writable(fds: list[int]) -> list[int]:
    """Leave out descriptors that only read."""
    return [fd for fd in fds if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY]


def free_bytes(folder: Path) -> int:
    """Return the free bytes of a file system."""
    space = os.statvfs(folder)
    return space.f_bfree * space.f_frsize


@contextmanager
def ballast(folder: Path) -> Iterator[None]:
    """Fill a file system to the last byte."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let every `open` fail with EMFILE."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    spare = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        try:
            while True:
                spare.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in spare:
            os.close(fd)
