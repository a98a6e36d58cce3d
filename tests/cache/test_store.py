import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from ditcache_rl.cache import CacheStats, TieredCache
from ditcache_rl.types import EntryKey, Tier

KEY = EntryKey(0, 0, 0, 0)
KEYS = st.builds(EntryKey, st.integers(0, 2), st.integers(0, 1), st.just(0), st.integers(0, 1))
CAPS = st.none() | st.integers(0, 300)


class StoreAgainstDict(RuleBasedStateMachine):
    """A store under any sequence of calls holds what a dict with a byte count would hold."""

    @initialize(cap=CAPS)
    def open(self, cap: int | None) -> None:
        self.cache = TieredCache(cap)
        self.cap = cap
        self.model: dict[EntryKey, Tensor] = {}
        self.stats = CacheStats()

    @rule(key=KEYS, size=st.integers(0, 120), tier=st.sampled_from(Tier))
    def put(self, key: EntryKey, size: int, tier: Tier) -> None:
        tensor = torch.zeros(size, dtype=torch.int8)
        others = sum(t.nbytes for k, t in self.model.items() if k != key)
        fits = self.cap is None or others + size <= self.cap
        expected = fits and tier is not Tier.DROP

        assert self.cache.put(key, tensor, tier) is expected

        if expected:
            self.model[key] = tensor
            self.stats.puts += 1
        elif tier is not Tier.DROP:
            self.stats.rejected += 1
        self.stats.peak_bytes = max(self.stats.peak_bytes, self.bytes())
        self.stats.peak_device_bytes = self.stats.peak_bytes

    @rule(key=KEYS)
    def get(self, key: EntryKey) -> None:
        assert self.cache.get(key) is self.model.get(key)

        self.stats.device_hits += key in self.model
        if key in self.model:
            self.stats.device_hit_bytes += self.model[key].nbytes
        self.stats.misses += key not in self.model

    @rule(key=KEYS)
    def discard(self, key: EntryKey) -> None:
        self.cache.discard(key)

        self.model.pop(key, None)

    @rule(request=st.integers(0, 2))
    def discard_request(self, request: int) -> None:
        self.cache.discard_request(request)

        self.model = {k: t for k, t in self.model.items() if k.request != request}

    @rule(cap=CAPS)
    def change_cap(self, cap: int | None) -> None:
        self.cache.device.cap_bytes = self.cap = cap

    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.model.values())

    @invariant()
    def bytes_add_up(self) -> None:
        assert self.cache.used_bytes == self.bytes()
        assert set(self.cache.device.held()) == set(self.model)
        assert self.cache.stats == self.stats

    def teardown(self) -> None:
        for request in range(3):
            self.cache.discard_request(request)
        assert self.cache.used_bytes == 0


TestStoreAgainstDict = StoreAgainstDict.TestCase
TestStoreAgainstDict.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_dropped_is_not_kept_and_not_counted_as_rejected() -> None:
    cache = TieredCache()

    assert not cache.put(KEY, torch.ones(3), Tier.DROP)

    assert cache.get(KEY) is None
    assert cache.used_bytes == 0
    assert cache.stats == CacheStats(misses=1)


@pytest.mark.parametrize("tier", [Tier.DEVICE, Tier.HOST, Tier.DISK])
def test_a_tier_that_is_not_there_falls_back_to_one_that_is(tier: Tier) -> None:
    cache = TieredCache()

    assert cache.put(KEY, torch.ones(3), tier)
    assert cache.get(KEY) is not None


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_an_entry_comes_back_with_its_bits_dtype_and_shape(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = (100 * torch.randn(shape, generator=generator)).to(dtype)
    copy = tensor.clone()
    cache = TieredCache()

    cache.put(KEY, tensor)
    found = cache.get(KEY)

    assert found is not None
    assert found.dtype == dtype
    assert found.shape == shape
    assert torch.equal(found, copy)
    assert cache.used_bytes == copy.numel() * copy.element_size()


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads interleave within what one thread would do in one go."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_counts_stay_consistent_under_threads() -> None:
    cache = TieredCache(device_bytes=400)

    def hammer(request: int) -> tuple[int, int, int]:
        rng = random.Random(request)
        calls = {"put": 0, "get": 0}
        kept = 0
        for _ in range(200):
            key = EntryKey(request % 3, 0, 0, rng.randrange(6))
            action = rng.choice(["put", "get", "discard", "request"])
            if action == "put":
                kept += cache.put(key, torch.zeros(rng.randrange(1, 60), dtype=torch.int8))
            elif action == "get":
                cache.get(key)
            elif action == "discard":
                cache.discard(key)
            elif rng.random() < 0.2:
                cache.discard_request(key.request)
            if action in calls:
                calls[action] += 1
            assert cache.used_bytes <= 400
        return calls["put"], calls["get"], kept

    with ThreadPoolExecutor(6) as pool:
        puts, gets, kept = map(sum, zip(*pool.map(hammer, range(6)), strict=True))

    held = [cache.get(key) for key in cache.device.held()]
    assert cache.used_bytes == sum(tensor.nbytes for tensor in held if tensor is not None)
    assert cache.stats.hits + cache.stats.misses == gets + len(held)
    assert cache.stats.puts == kept
    assert cache.stats.puts + cache.stats.rejected == puts
    assert cache.stats.peak_bytes <= 400
    for request in range(3):
        cache.discard_request(request)
    assert cache.used_bytes == 0
