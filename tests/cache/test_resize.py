"""Caps that change while entries are there."""

import errno
from pathlib import Path

import torch

from ditcache_rl.cache import SystemIO, TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.host import HostTier
from ditcache_rl.types import EntryKey, Tier

KEY = EntryKey(0, 0, 0, 0)


def test_a_smaller_disk_tier_gives_its_blocks_back_and_keeps_what_fits(tmp_path: Path) -> None:
    cache = TieredCache(0, None, 16 * 4096, cache_dir=tmp_path)
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)
    entries = {EntryKey(0, 0, site, 0): torch.full((1000,), float(site)) for site in range(16)}
    for key, tensor in entries.items():
        assert cache.put(key, tensor, Tier.DISK)
    for key in list(entries)[:13]:
        cache.discard(key)

    cache.resize(Tier.DISK, 4 * 4096)

    assert disk.held_bytes() <= 4 * 4096
    assert disk.allocator.reach <= 4 * 4096
    for key in list(entries)[13:]:
        found = cache.get(key)
        assert found is not None
        assert torch.equal(found, entries[key])
    cache.resize(Tier.DISK, 8 * 4096)
    assert cache.put(KEY, torch.ones(4096), Tier.DISK)
    cache.close()
    assert cache.used_bytes == 0


def test_a_disk_tier_that_changes_its_size_again_and_again_stays_under_its_cap(
    tmp_path: Path,
) -> None:
    cache = TieredCache(0, None, 4096, cache_dir=tmp_path)
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)
    for pages in (7, 2, 9, 1, 2, 10, 3, 4, 0, 5):
        cache.resize(Tier.DISK, pages * 4096)

        assert disk.held_bytes() <= pages * 4096
        for site in range(10):
            cache.put(EntryKey(0, 0, site, 0), torch.ones(4096, dtype=torch.int8), Tier.DISK)
        assert disk.used_bytes == pages * 4096, "every page under the cap can be used"
    cache.close()


def test_blocks_that_could_not_be_given_back_are_given_back_later(tmp_path: Path) -> None:
    class Stubborn(SystemIO):
        refuses = True

        def truncate(self, fd: int, nbytes: int) -> None:
            if self.refuses:
                raise OSError(errno.EIO, "not now")
            super().truncate(fd, nbytes)

    io = Stubborn()
    cache = TieredCache(0, None, 8 * 4096, cache_dir=tmp_path, io=io)
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)

    cache.resize(Tier.DISK, 4096)
    assert disk.cap_bytes == 4096
    io.refuses = False
    assert cache.get(KEY) is None

    assert disk.held_bytes() <= 4096
    cache.close()


def test_memory_of_a_host_tier_is_used_again_when_it_grows_again() -> None:
    cache = TieredCache(0, 1 << 20)
    host = cache.slower[Tier.HOST]
    assert isinstance(host, HostTier)
    for cap_bytes in (1 << 12, 1 << 20, 1 << 16, 1 << 21, 1 << 10, 1 << 21):
        cache.resize(Tier.HOST, cap_bytes)
        assert host.allocator.capacity == cap_bytes

    assert sum(len(array) for _, _, array in host._maps) == 1 << 21
    cache.close()
