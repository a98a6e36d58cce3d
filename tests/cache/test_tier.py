import pytest
import torch

from ditcache_rl.cache import DeviceTier
from ditcache_rl.types import EntryKey

A, B = EntryKey(0, 0, 0, 0), EntryKey(0, 0, 0, 1)


def entry(size_bytes: int) -> torch.Tensor:
    return torch.zeros(size_bytes, dtype=torch.int8)


def test_an_entry_of_exactly_the_cap_is_accepted() -> None:
    tier = DeviceTier(cap_bytes=64)

    assert tier.put(A, entry(64))

    assert tier.used_bytes == 64
    assert tier.free_share == 0.0


def test_one_byte_beyond_the_cap_is_refused_and_nothing_changes() -> None:
    tier = DeviceTier(cap_bytes=64)
    kept = entry(40)
    tier.put(A, kept)

    assert not tier.put(B, entry(25))

    assert tier.held() == (A,)
    assert tier.get(A) is kept
    assert tier.get(B) is None
    assert tier.used_bytes == 40
    assert tier.put(B, entry(24))


def test_replacing_an_entry_counts_only_the_new_one() -> None:
    tier = DeviceTier(cap_bytes=64)
    tier.put(A, entry(40))

    assert tier.put(A, entry(64))
    assert tier.used_bytes == 64


def test_a_refused_replacement_leaves_the_old_entry() -> None:
    tier = DeviceTier(cap_bytes=64)
    old = entry(40)
    tier.put(A, old)

    assert not tier.put(A, entry(65))

    assert tier.get(A) is old
    assert tier.used_bytes == 40


def test_discarding_frees_the_bytes_and_a_missing_entry_is_no_error() -> None:
    tier = DeviceTier(cap_bytes=64)
    tier.put(A, entry(40))

    tier.discard(B)
    tier.discard(A)
    tier.discard(A)

    assert len(tier) == 0
    assert A not in tier
    assert tier.used_bytes == 0
    assert tier.free_share == 1.0


def test_a_lowered_cap_evicts_nothing_but_refuses_what_is_new() -> None:
    tier = DeviceTier(cap_bytes=64)
    tier.put(A, entry(40))

    tier.cap_bytes = 39

    assert A in tier
    assert tier.free_share == 0.0
    assert not tier.put(B, entry(1))
    assert tier.put(A, entry(39)), "a replacement that fits under the new cap is welcome"


def test_without_a_cap_everything_is_accepted_and_all_is_free() -> None:
    tier = DeviceTier()

    assert tier.put(A, entry(10_000))
    assert tier.free_share == 1.0


def test_a_cap_of_zero_keeps_nothing_and_has_no_free_share() -> None:
    tier = DeviceTier(cap_bytes=0)

    assert not tier.put(A, entry(1))
    assert tier.free_share == 0.0


@pytest.mark.parametrize("used", [0, 16, 48, 64])
def test_free_share_is_the_unused_part_of_the_cap(used: int) -> None:
    tier = DeviceTier(cap_bytes=64)
    tier.put(A, entry(used))

    assert tier.free_share == 1 - used / 64
