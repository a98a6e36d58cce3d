import gc
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from benchmarks.mishaps.faulty import FaultyIO, LateCopier
from ditcache_rl.cache import CODECS, DeviceTier, Outlook, TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.tier import SlotTier
from ditcache_rl.types import EntryKey, Tier

KEYS = st.builds(EntryKey, st.integers(0, 2), st.just(0), st.just(0), st.integers(0, 2))
SHAPES: list[tuple[int, ...]] = [(), (0,), (7,), (2, 3, 5), (1300,)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float64, torch.bool]
OUTLOOKS = st.none() | st.builds(
    lambda now, ahead, chance: Outlook(now, now + ahead, chance),
    st.integers(0, 20),
    st.integers(1, 40),
    st.floats(0.01, 1),
)
KEY = EntryKey(0, 0, 0, 0)


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (40 * torch.randn(shape, generator=generator)).to(dtype)


def same_bits(found: Tensor, expected: Tensor) -> bool:
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and bool(
            (found.reshape(-1).view(torch.uint8) == expected.reshape(-1).view(torch.uint8)).all()
        )
    )


class TiersAgainstDict(RuleBasedStateMachine):
    """Whatever happens, an entry is what was put last, or missing, and no cap is exceeded."""

    late = False

    @initialize(seed=st.integers(0, 2**20), rate=st.sampled_from([0.0, 0.2]))
    def open(self, seed: int, rate: float) -> None:
        self.rng = random.Random(seed)
        self.copier = LateCopier(self.rng) if self.late else None
        self.folder = Path(os.environ["DITCACHE_TEST_DIR"])
        self.cache = TieredCache(
            6000,
            8192,
            5 * 4096,
            cache_dir=self.folder,
            io=FaultyIO(self.rng, rate=rate, slow_s=0.0),
            copier=self.copier,
        )
        self.model: dict[EntryKey, Tensor] = {}
        self.held: list[tuple[Tensor, Tensor]] = []
        self.lookups = 0

    @rule(
        key=KEYS,
        shape=st.sampled_from(SHAPES),
        dtype=st.sampled_from(DTYPES),
        tier=st.sampled_from(Tier),
        seed=st.integers(0, 999),
        outlook=OUTLOOKS,
    )
    def put(
        self,
        key: EntryKey,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        tier: Tier,
        seed: int,
        outlook: Outlook | None,
    ) -> None:
        tensor = numbers(shape, dtype, seed)
        if len(shape) == 3:
            tensor = tensor.transpose(0, 2)  # not contiguous
        if self.cache.put(key, tensor, tier, outlook):
            self.model[key] = tensor.clone()

    @rule(key=KEYS, outlook=OUTLOOKS, hold=st.booleans())
    def get(self, key: EntryKey, outlook: Outlook | None, hold: bool) -> None:
        found = self.cache.get(key, outlook)
        self.lookups += 1
        if found is None:
            self.model.pop(key, None)
            return
        assert same_bits(found, self.model[key])
        if hold:
            self.held.append((found, self.model[key]))

    @rule()
    def let_go(self) -> None:
        self.held.clear()

    @rule(keys=st.lists(KEYS, max_size=4))
    def prefetch(self, keys: list[EntryKey]) -> None:
        self.cache.prefetch(keys)

    @rule(key=KEYS)
    def discard(self, key: EntryKey) -> None:
        self.cache.discard(key)
        self.model.pop(key, None)

    @rule(request=st.integers(0, 2))
    def discard_request(self, request: int) -> None:
        self.cache.discard_request(request)
        self.model = {k: t for k, t in self.model.items() if k.request != request}

    @rule(size=st.integers(0, 8000))
    def resize_device(self, size: int) -> None:
        self.cache.resize(Tier.DEVICE, size)

    @rule(size=st.integers(64, 12000))
    def resize_host(self, size: int) -> None:
        self.cache.resize(Tier.HOST, size)

    @rule(size=st.integers(1, 8))
    def resize_disk(self, size: int) -> None:
        self.cache.resize(Tier.DISK, size * 4096)

    @rule()
    def pass_time(self) -> None:
        if self.copier is not None:
            self.copier.tick()

    def where(self, key: EntryKey) -> list[Tier]:
        tiers = [Tier.DEVICE] if key in self.cache.device else []
        return tiers + [level for level, tier in self.cache.slower.items() if key in tier]

    @invariant()
    def caps_hold_and_entries_are_in_one_tier(self) -> None:
        cache = self.cache
        tiers: list[DeviceTier | SlotTier] = [cache.device, *cache.slower.values()]
        for key in {k for tier in tiers for k in tier.held()}:
            assert len(self.where(key)) == 1
            assert key in self.model
        device = sum(cache.device.size_of(key) for key in cache.device.held())
        assert device <= cache.device.used_bytes
        assert cache.device.cap_bytes is not None
        assert cache.device.used_bytes <= cache.device.cap_bytes
        for tier in cache.slower.values():
            allocator = tier.allocator
            assert allocator.used_bytes + allocator.free_bytes == allocator.capacity
            assert sum(size for _, size in allocator.gaps()) == allocator.free_bytes
            taken = tier.used_bytes + tier.promised_bytes
            assert taken <= tier.cap_bytes or self.held
        assert cache.stats.hits + cache.stats.misses == self.lookups
        for held, expected in self.held:
            assert same_bits(held, expected)

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.held.clear()
        for request in range(3):
            self.cache.discard_request(request)
        self.cache.close()
        if self.copier is not None:
            for ticket in self.copier._pending:
                ticket.finish()
            self.cache.discard_request(0)
        assert self.cache.used_bytes == 0
        assert list(self.folder.iterdir()) == []


class LateTiersAgainstDict(TiersAgainstDict):
    """The same with copies that end late and out of order."""

    late = True


@pytest.fixture(autouse=True, scope="module")
def folder_of_machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("machines")
    os.environ["DITCACHE_TEST_DIR"] = str(folder)
    yield
    del os.environ["DITCACHE_TEST_DIR"]


MACHINE = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTiersAgainstDict = TiersAgainstDict.TestCase
TestTiersAgainstDict.settings = MACHINE
TestLateTiersAgainstDict = LateTiersAgainstDict.TestCase
TestLateTiersAgainstDict.settings = MACHINE


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TieredCache]:
    """A store with little on the device and room below."""
    store = TieredCache(64 << 10, 1 << 20, 32 << 20, cache_dir=tmp_path / "cache")
    yield store
    store.close()


@pytest.mark.parametrize("tier", [Tier.DEVICE, Tier.HOST, Tier.DISK])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_dtype_and_shape_come_back_from_every_tier(
    cache: TieredCache, tier: Tier, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tensor = numbers(shape, dtype, 1)
    expected = tensor.clone()

    assert cache.put(KEY, tensor, tier)
    found = cache.get(KEY)

    assert found is not None
    assert same_bits(found, expected)


@pytest.mark.parametrize("mib", [1, 3, 5, 9])
def test_large_entries_come_back_though_two_threads_share_the_work(
    cache: TieredCache, mib: int
) -> None:
    tensor = numbers(((mib << 18) + 3,), torch.float32, 2)

    assert cache.put(KEY, tensor, Tier.DISK)
    cache.prefetch([KEY])
    found = cache.get(KEY)

    assert found is not None
    assert same_bits(found, tensor)
    assert cache.stats.disk_hits == 1


@pytest.mark.parametrize("tier", [Tier.DEVICE, Tier.HOST, Tier.DISK])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 99_999, 2_000_000])
def test_what_is_not_finite_is_refused(
    tier: Tier, dtype: torch.dtype, value: float, place: int, tmp_path: Path
) -> None:
    cache = TieredCache(None, 32 << 20, 32 << 20, cache_dir=tmp_path)
    tensor = torch.ones(place + 3, dtype=dtype)
    tensor[place] = value

    assert not cache.put(KEY, tensor, tier)

    assert cache.get(KEY) is None
    assert cache.stats.not_finite == 1
    assert cache.used_bytes == 0
    cache.close()


def test_large_finite_numbers_are_kept_though_their_sum_is_not(cache: TieredCache) -> None:
    assert cache.put(KEY, torch.full((8,), 3e38))
    assert cache.put(KEY, torch.full((8,), 6e4, dtype=torch.float16), Tier.DISK)


@pytest.mark.parametrize("spilled", [100, 5 << 20])
def test_every_flipped_bit_on_disk_is_noticed(cache: TieredCache, spilled: int) -> None:
    rng = random.Random(3)
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)
    for flip in range(30):
        tensor = numbers((spilled // 4,), torch.float32, flip)
        cache.put(KEY, tensor, Tier.DISK)
        slot = disk.slot(KEY)
        assert slot is not None
        offset = slot.offset + rng.randrange(slot.nbytes)
        (byte,) = os.pread(disk.fd, 1, offset)
        os.pwrite(disk.fd, bytes([byte ^ 1 << rng.randrange(8)]), offset)

        assert cache.get(KEY) is None
        assert cache.stats.corrupt == flip + 1


def test_swapped_blocks_are_noticed_though_each_is_whole(cache: TieredCache) -> None:
    one, other = EntryKey(0, 0, 0, 0), EntryKey(0, 0, 1, 0)
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)
    for key in (one, other):
        cache.put(key, numbers((500,), torch.float32, key.site), Tier.DISK)
    slots = [disk.slot(key) for key in (one, other)]
    blocks = [os.pread(disk.fd, s.nbytes, s.offset) for s in slots if s is not None]
    for slot, block in zip(slots, reversed(blocks), strict=True):
        assert slot is not None
        os.pwrite(disk.fd, block, slot.offset)

    assert cache.get(one) is None
    assert cache.get(other) is None
    assert cache.stats.corrupt == 2


def test_a_truncated_slab_means_misses(cache: TieredCache) -> None:
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)
    cache.put(KEY, torch.ones(3000), Tier.DISK)
    os.ftruncate(disk.fd, 0)

    assert cache.get(KEY) is None
    assert cache.stats.errors == 1


def test_a_file_without_a_name_of_the_promised_size_and_mode(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache = TieredCache(None, None, 1 << 20, cache_dir=tmp_path / "new")
    finally:
        os.umask(before)
    disk = cache.slower[Tier.DISK]
    assert isinstance(disk, DiskTier)

    found = os.fstat(disk.fd)
    assert found.st_nlink == 0
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert list((tmp_path / "new").iterdir()) == []
    assert disk.held_bytes() <= (1 << 20) + 4096
    cache.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(disk.fd)


def test_the_least_valuable_goes_down_and_the_most_valuable_stays(tmp_path: Path) -> None:
    cache = TieredCache(4096, 4096, None)
    soon, late, newcomer = (EntryKey(0, 0, site, 0) for site in range(3))
    cache.put(soon, torch.ones(512), outlook=Outlook(0, 3))
    cache.put(late, torch.ones(512), outlook=Outlook(1, 90))
    cache.put(newcomer, torch.ones(512), outlook=Outlook(2, 10))

    assert set(cache.device.held()) == {soon, newcomer}
    assert cache.slower[Tier.HOST].held() == (late,)
    assert cache.stats.demoted == 1
    cache.close()


def test_an_entry_modified_behind_the_stores_back_is_a_miss(cache: TieredCache) -> None:
    tensor = torch.ones(8)
    cache.put(KEY, tensor)

    tensor.add_(1)

    assert cache.get(KEY) is None


def test_a_host_slot_is_not_reused_while_a_tensor_looks_at_it() -> None:
    cache = TieredCache(0, 4096)
    cache.put(KEY, torch.ones(1024), Tier.HOST)
    view = cache.get(KEY)
    assert view is not None
    part = view[10:20]
    del view

    cache.discard(KEY)
    assert not cache.put(KEY, torch.zeros(1024), Tier.HOST)
    assert bool((part == 1).all())
    del part
    assert cache.put(KEY, torch.zeros(1024), Tier.HOST)
    cache.close()


def test_a_slot_comes_back_though_its_entry_was_collected_before_its_tensor() -> None:
    cache = TieredCache(0, 4096)
    cache.put(KEY, torch.ones(1024), Tier.HOST)
    view = cache.get(KEY)
    cache.discard(KEY)

    gc.collect()
    del view

    assert cache.put(KEY, torch.zeros(1024), Tier.HOST)
    cache.close()


def test_a_disk_that_fails_rests_and_is_tried_again(tmp_path: Path) -> None:
    io = FaultyIO(random.Random(0), rate=1.0, kinds=("enospc",))
    cache = TieredCache(0, None, 1 << 20, cache_dir=tmp_path, io=io)

    assert not cache.put(KEY, torch.ones(9), Tier.DISK)
    calls = io.injected
    io.rate = 0.0
    kept = [cache.put(KEY, torch.ones(9), Tier.DISK) for _ in range(70)]

    assert calls == 1
    assert kept == [False] * 64 + [True] * 6
    assert cache.stats.errors == 1
    cache.close()


def test_a_load_that_takes_longer_than_computing_is_given_up(tmp_path: Path) -> None:
    io = FaultyIO(random.Random(0), rate=0.0, kinds=("slow",), slow_s=0.5)
    cache = TieredCache(0, None, 1 << 20, cache_dir=tmp_path, io=io, compute_s_per_byte=1e-9)
    cache.put(KEY, torch.ones(9), Tier.DISK)
    io.rate = 1.0

    assert cache.get(KEY) is None
    assert cache.stats.given_up == 1
    cache.close()
    assert cache.device.used_bytes == 0


def test_threads_that_share_a_store_see_only_what_they_put(tmp_path: Path) -> None:
    cache = TieredCache(8192, 8192, 1 << 16, cache_dir=tmp_path)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def hammer(request: int) -> None:
        rng = random.Random(request)
        model: dict[EntryKey, Tensor] = {}
        for _ in range(300):
            key = EntryKey(request, 0, 0, rng.randrange(8))
            action = rng.randrange(5)
            if action < 2:
                tensor = torch.full((rng.randrange(1, 700),), rng.random())
                if cache.put(
                    key, tensor, rng.choice(list(Tier)[:3]), Outlook(0, rng.randrange(1, 9))
                ):
                    model[key] = tensor
            elif action == 2:
                cache.prefetch([key])
            elif action == 3:
                found = cache.get(key)
                assert found is None or torch.equal(found, model[key])
            else:
                cache.discard(key)
                model.pop(key, None)
        cache.discard_request(request)

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(hammer, range(8)))
    finally:
        sys.setswitchinterval(interval)
    cache.close()
    assert cache.used_bytes == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("ditcache-io")]


def test_a_forked_child_finds_the_store_closed_and_harms_nothing(cache: TieredCache) -> None:
    cache.put(KEY, torch.ones(1000), Tier.DISK)
    child = os.fork()
    if child == 0:
        usable = cache.put(KEY, torch.zeros(1000), Tier.DISK) or cache.get(KEY) is not None
        os._exit(int(usable))
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    found = cache.get(KEY)
    assert found is not None
    assert bool((found == 1).all())


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
import torch
from pathlib import Path
from ditcache_rl.cache import TieredCache
from ditcache_rl.types import EntryKey, Tier
cache = TieredCache(None, None, 1 << 24, cache_dir=Path({str(tmp_path)!r}))
print("ready", flush=True)
for i in range(10**6):
    cache.put(EntryKey(0, 0, 0, i % 9), torch.full((9999,), float(i)), Tier.DISK)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)

    assert list(tmp_path.iterdir()) == []


@given(st.sampled_from([name for name in CODECS if name != "none"]), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_lossy_format_keeps_its_stated_error_through_the_store(name: str, seed: int) -> None:
    codec = CODECS[name]
    cache = TieredCache(0, 1 << 20, codec=codec)
    tensor = numbers((2, 3001), torch.float32, seed)

    assert cache.put(KEY, tensor, Tier.HOST)
    found = cache.get(KEY)

    assert found is not None
    assert found.dtype == tensor.dtype
    assert float((found - tensor).norm() / tensor.norm()) <= codec.error
    cache.close()


def test_what_is_read_takes_the_place_of_what_is_worth_less() -> None:
    cache = TieredCache(4096, 8192, copier=LateCopier(random.Random(0)))
    idle, busy = EntryKey(0, 0, 0, 0), EntryKey(0, 0, 1, 0)
    cache.put(idle, torch.zeros(1024), outlook=Outlook(0, 90))
    cache.put(busy, torch.ones(1024), Tier.HOST, Outlook(1, 2))

    found = cache.get(busy, Outlook(2, 3))

    assert found is not None
    assert cache.device.held() == (busy,)
    assert cache.slower[Tier.HOST].held() == (idle,)
    cache.close()
