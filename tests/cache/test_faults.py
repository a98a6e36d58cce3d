import gc
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.mishaps.faulty import FaultyIO
from ditcache_rl.cache import Memory, SystemIO, TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.io import Buffer
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import EntryKey, Tier

KEY = EntryKey(0, 0, 0, 0)


def in_child(work: Callable[[], bool]) -> bool:
    """Tell whether a function holds in a forked process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = int(not work())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("name", ["zero\0byte", "n" * 300])
def test_a_name_that_no_directory_can_have_is_refused_clearly(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name

    with pytest.raises(ConfigError, match="cache directory"):
        TieredCache(None, None, 4096, cache_dir=folder)
    with pytest.raises(ConfigError, match="cache directory"):
        Memory(disk=4096, dir=folder).caps(torch.device("cpu"))


def test_a_child_that_writes_to_what_it_inherited_harms_no_entry() -> None:
    cache = TieredCache(None, 1 << 20)
    cache.put(KEY, torch.ones(1000), Tier.HOST)
    inherited = cache.get(KEY)
    assert inherited is not None

    assert in_child(lambda: bool((inherited.fill_(-1) == -1).all()))

    found = cache.get(KEY)
    assert found is not None
    assert bool((found == 1).all())
    cache.close()


def test_a_child_keeps_nothing_of_the_parents_file(tmp_path: Path) -> None:
    cache = TieredCache(None, None, 1 << 20, cache_dir=tmp_path)
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)

    disk._enter()  # as another thread may be at the moment of the fork

    def is_closed() -> bool:
        try:
            os.fstat(disk.fd)
        except OSError:
            return True
        return False

    assert in_child(is_closed)
    disk._leave()
    cache.close()


def test_a_child_does_not_wait_for_the_threads_of_its_parent() -> None:
    cache = TieredCache(1 << 20)
    cache.put(KEY, torch.ones(9))

    def use() -> bool:
        signal.alarm(5)
        return cache.get(KEY) is None and cache.put(KEY, torch.ones(9))

    with cache._lock:  # as another thread does now and then
        assert in_child(use)


def test_what_is_put_while_a_store_is_closed_is_not_kept(tmp_path: Path) -> None:
    class Closing(SystemIO):
        def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
            threading.Thread(target=cache.close).start()
            while not cache._inventory.closed:
                time.sleep(0.001)
            return super().pwrite(fd, data, offset)

    cache = TieredCache(1 << 20, None, 1 << 20, cache_dir=tmp_path, io=Closing())

    assert not cache.put(KEY, torch.ones(9), Tier.DISK)
    assert cache.used_bytes == 0
    assert cache.get(KEY) is None


def test_a_tensor_that_outlives_its_store_gives_its_bytes_back() -> None:
    cache = TieredCache(0, 1 << 20)
    cache.put(KEY, torch.ones(9), Tier.HOST)
    found = cache.get(KEY)

    cache.close()
    assert found is not None
    assert bool((found == 1).all())
    assert cache.used_bytes == 64
    del found

    assert cache.used_bytes == 0


class InterruptedIO(SystemIO):
    """Is interrupted from the keyboard while it is asked to be."""

    armed = False

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        if self.armed:
            raise KeyboardInterrupt
        return super().pwrite(fd, data, offset)

    def preadv(self, fd: int, data: Buffer, offset: int) -> int:
        if self.armed:
            raise KeyboardInterrupt
        return super().preadv(fd, data, offset)


@pytest.mark.parametrize("what", ["put", "get", "demote"])
def test_an_interruption_from_the_keyboard_leaves_no_bytes(tmp_path: Path, what: str) -> None:
    io = InterruptedIO()
    cache = TieredCache(1 << 20, 1 << 20, 1 << 20, cache_dir=tmp_path, io=io)
    cache.put(KEY, torch.ones(9), Tier.HOST if what == "demote" else Tier.DISK)
    io.armed = True

    calls: dict[str, Callable[[], object]] = {
        "put": lambda: cache.put(EntryKey(0, 0, 1, 0), torch.ones(9), Tier.DISK),
        "get": lambda: cache.get(KEY),
        "demote": lambda: cache.resize(Tier.HOST, 0),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[what]()

    cache.discard_request(0)
    assert cache.used_bytes == 0
    cache.close()


def test_a_kept_log_record_keeps_no_slot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    io = FaultyIO(random.Random(0), rate=1.0, kinds=("eio",))
    cache = TieredCache(0, 1 << 20, 1 << 20, cache_dir=tmp_path, io=io)
    cache.put(KEY, torch.ones(9), Tier.HOST)

    cache.resize(Tier.HOST, 0)  # has to go down, and cannot

    assert len(caplog.records) == 1
    assert cache.used_bytes == 0
    cache.close()


def test_a_host_tier_that_cannot_grow_stays_as_it_was() -> None:
    def grow() -> bool:
        cache = TieredCache(0, 1 << 20)
        host = cache.slower[Tier.HOST]
        resource.setrlimit(resource.RLIMIT_AS, (0, 0))
        try:
            cache.resize(Tier.HOST, 1 << 30)
        except OSError:
            return host.allocator.capacity == host.cap_bytes == 1 << 20
        return False

    assert in_child(grow)


def test_an_entry_that_moves_does_not_win_over_a_newer_one(tmp_path: Path) -> None:
    class Crowded(SystemIO):
        def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
            cache.resize(Tier.DEVICE, 0)  # as another thread may make room at that moment
            return super().pwrite(fd, data, offset)

    cache = TieredCache(1 << 20, 1 << 20, 1 << 20, cache_dir=tmp_path, io=Crowded())
    cache.put(KEY, torch.zeros(9))

    assert cache.put(KEY, torch.ones(9), Tier.DISK)

    found = cache.get(KEY)
    assert found is not None
    assert bool((found == 1).all())
    cache.close()


def test_where_no_thread_can_start_loads_ahead_are_done_at_once(tmp_path: Path) -> None:
    def load() -> bool:
        cache = TieredCache(1 << 20, None, 1 << 20, cache_dir=tmp_path)
        cache.put(KEY, torch.ones(9), Tier.DISK)
        threading.stack_size(1 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

        cache.prefetch([KEY])

        return cache.get(KEY) is not None and cache.stats.hidden == 1

    assert in_child(load)


class HangingIO(SystemIO):
    """A disk whose calls do not come back until it is told to go on."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        self.goes_on.wait()
        return super().pwrite(fd, data, offset)

    def preadv(self, fd: int, data: Buffer, offset: int) -> int:
        self.goes_on.wait()
        return super().preadv(fd, data, offset)


@pytest.mark.parametrize("nbytes", [36, 8 << 20])
@pytest.mark.parametrize("what", ["put", "get"])
def test_a_disk_that_hangs_sleeps_until_it_comes_back(
    tmp_path: Path, what: str, nbytes: int
) -> None:
    io, other, entry = HangingIO(), EntryKey(0, 0, 1, 0), torch.ones(nbytes // 4)
    cache = TieredCache(0, None, 32 << 20, cache_dir=tmp_path, io=io, compute_s_per_byte=1e-12)
    assert cache.put(KEY, entry, Tier.DISK)
    io.goes_on.clear()

    assert not cache.put(other, entry, Tier.DISK) if what == "put" else cache.get(KEY) is None
    for _ in range(100):  # of which none may wait
        assert not cache.put(other, entry, Tier.DISK)
        assert cache.get(KEY) is None
        cache.prefetch([KEY])

    io.goes_on.set()
    deadline = time.monotonic() + 30
    while not cache.put(other, entry, Tier.DISK):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found = cache.get(other)
    assert found is not None
    assert torch.equal(found, entry)
    cache.close()
    assert cache.used_bytes == 0


def test_a_store_that_is_dropped_ends_its_threads(tmp_path: Path) -> None:
    def threads() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("ditcache-io")]

    cache = TieredCache(1 << 20, None, 1 << 20, cache_dir=tmp_path)
    cache.put(KEY, torch.ones(9), Tier.DISK)
    cache.prefetch([KEY])
    started = threads()
    assert started

    del cache
    gc.collect()

    for thread in started:
        thread.join(10)
    assert not threads()


@pytest.mark.parametrize("what", ["read", "read ahead", "read large", "write large"])
def test_a_failed_call_keeps_nothing_of_its_callers(tmp_path: Path, what: str) -> None:
    io = FaultyIO(random.Random(0), rate=0.0, kinds=("eio",))
    cache = TieredCache(16 << 20, 1 << 20, 16 << 20, cache_dir=tmp_path, io=io)
    small, large = EntryKey(0, 0, 1, 0), EntryKey(0, 0, 2, 0)
    cache.put(KEY, torch.ones(9), Tier.HOST)
    cache.put(small, torch.ones(9), Tier.DISK)
    cache.put(large, torch.ones(1 << 20), Tier.DISK)
    io.rate = 1.0

    def fail() -> Tensor | None:
        found = cache.get(KEY)  # in a frame that an error would keep, and a slot with it
        if what == "write large":
            cache.put(large, torch.zeros(1 << 20), Tier.DISK)
        elif what == "read ahead":
            cache.prefetch([small])
        cache.get(large if what == "read large" else small)
        return found

    gc.disable()
    try:
        fail()
        cache.discard_request(0)
        assert cache.used_bytes == 0
    finally:
        gc.enable()
    cache.close()
