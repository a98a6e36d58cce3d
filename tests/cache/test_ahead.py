"""Loads that are begun ahead of their use, and the room that they have."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ditcache_rl.cache import TieredCache
from ditcache_rl.types import EntryKey, Tier

#: Bytes of an entry.
ENTRY = 8192
KEYS = [EntryKey(0, 0, site, 0) for site in range(6)]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TieredCache]:
    """A store with room for two and a half entries on the device, and six of them on disk."""
    cache = TieredCache(5 * ENTRY // 2, 8 * ENTRY, 8 * ENTRY, cache_dir=tmp_path)
    for site, key in enumerate(KEYS):
        assert cache.put(key, torch.full((ENTRY // 4,), float(site)), Tier.DISK)
    yield cache
    cache.close()
    assert cache.used_bytes == 0


def test_a_load_that_the_device_has_no_room_for_is_one_of_the_host(cache: TieredCache) -> None:
    host = cache.slower[Tier.HOST]

    cache.prefetch(KEYS)

    assert cache.stats.prefetched == 3
    assert cache.device.used_bytes == 2 * ENTRY
    assert host.promised_bytes == ENTRY


def test_entries_leave_the_room_of_that_load_alone(cache: TieredCache) -> None:
    host = cache.slower[Tier.HOST]
    cache.prefetch(KEYS)

    for site in range(10):
        cache.put(EntryKey(1, 0, site, 0), torch.ones(ENTRY // 4), Tier.HOST)

    assert host.used_bytes == 7 * ENTRY
    assert host.used_bytes + host.promised_bytes == host.cap_bytes


def test_loads_go_on_as_reads_make_room(cache: TieredCache) -> None:
    cache.prefetch(KEYS)

    for site, key in enumerate(KEYS):
        found = cache.get(key)
        assert found is not None
        assert bool((found == site).all())
        assert cache.stats.prefetched == min(len(KEYS), 3 + site + 1)

    assert cache.stats.hidden + cache.stats.late == len(KEYS)
    assert cache.slower[Tier.HOST].promised_bytes == 0
