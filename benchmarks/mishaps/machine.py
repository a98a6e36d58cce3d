"""A store beside a dict, under thousands of random operations."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from benchmarks.mishaps.faulty import FaultyIO, LateCopier
from benchmarks.mishaps.outcome import (
    DTYPES,
    MISMATCH,
    Beat,
    CaseOutcome,
    Findings,
    numbers,
    same_bits,
)
from ditcache_rl.cache import Outlook, TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.types import EntryKey, Tier

_PAGE = 4096
_SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (7,), (2, 3, 5), (1300,), (40, 31))
#: Operations on one store before a fresh one is taken.
_LIFE = 2000


class Twins:
    """A store, and the dict that says what it may hold.

    The law: an entry is what was put last or missing, is in exactly one tier, and no cap is
    exceeded, neither as the store counts nor as the system does.

    Args:
        rng: Chooses operations and arguments.
        found: Takes what goes wrong.
        figure: Under which name.
        cache: The store.
        requests: Ids of the requests that operations name.
        shapes: Of the entries.
    """

    def __init__(
        self,
        rng: random.Random,
        found: Findings,
        figure: str,
        cache: TieredCache,
        *,
        requests: range = range(3),
        shapes: tuple[tuple[int, ...], ...] = _SHAPES,
    ) -> None:
        self.rng, self.found, self.figure, self.cache = rng, found, figure, cache
        self.requests, self.shapes = requests, shapes
        self.model: dict[EntryKey, Tensor] = {}
        self.held: list[tuple[Tensor, Tensor]] = []
        self.lookups = 0
        self.served = 0
        self._actions: tuple[tuple[Callable[[], None], int], ...] = (
            (self.put, 12),
            (self.get, 10),
            (self.prefetch, 4),
            (self.discard, 2),
            (self.let_go, 2),
            (self.discard_request, 1),
        )

    def step(self) -> None:
        """Do something at random, and check the laws."""
        actions, weights = zip(*self._actions, strict=True)
        self.rng.choices(actions, weights)[0]()
        self.check()

    def key(self) -> EntryKey:
        """Name an entry."""
        return EntryKey(self.rng.choice(self.requests), 0, 0, self.rng.randrange(4))

    def outlook(self) -> Outlook | None:
        """Invent a future."""
        now = self.rng.randrange(20)
        ahead = Outlook(now, now + self.rng.randrange(1, 40), self.rng.uniform(0.01, 1))
        return self.rng.choice([None, ahead, ahead])

    def put(self) -> None:
        """Store something, not always contiguous."""
        key, shape = self.key(), self.rng.choice(self.shapes)
        tensor = numbers(shape, self.rng.choice(DTYPES), self.rng.randrange(1 << 30))
        if len(shape) > 1:
            tensor = tensor.transpose(0, -1)
        expected = tensor.clone()
        if self.cache.put(key, tensor, self.rng.choice(list(Tier)), self.outlook()):
            self.model[key] = expected

    def get(self) -> None:
        """Read something; sometimes keep what came."""
        key = self.key()
        found = self.cache.get(key, self.outlook())
        self.lookups += 1
        if self._compare(key, found) and self.rng.random() < 0.2:
            assert found is not None
            self.held.append((found, self.model[key]))

    def prefetch(self) -> None:
        """Begin loads."""
        self.cache.prefetch([self.key() for _ in range(self.rng.randrange(1, 4))])

    def discard(self) -> None:
        """Forget an entry."""
        key = self.key()
        self.cache.discard(key)
        self.model.pop(key, None)

    def discard_request(self) -> None:
        """Forget a request."""
        request = self.rng.choice(self.requests)
        self.cache.discard_request(request)
        self.model = {k: t for k, t in self.model.items() if k.request != request}

    def let_go(self) -> None:
        """Drop what was read before."""
        self.held.clear()
        self.cache.discard_request(-1)  # the store notices at its next call

    def where(self, key: EntryKey) -> list[Tier]:
        """List the tiers that hold a key."""
        device = [Tier.DEVICE] if key in self.cache.device else []
        return device + [level for level, tier in self.cache.slower.items() if key in tier]

    def check(self) -> None:
        """Check the laws."""
        cache = self.cache
        names = {*cache.device.held(), *(k for t in cache.slower.values() for k in t.held())}
        for key in names:
            self._expect(len(self.where(key)) == 1, f"{key} is in {self.where(key)}")
            self._expect(key in self.model, f"{key} should be missing")
        cap = cache.device.cap_bytes
        self._expect(cap is None or cache.device.used_bytes <= cap, "device above its cap")
        for level, tier in cache.slower.items():
            free = sum(size for _, size in tier.allocator.gaps())
            whole = free + tier.used_bytes == tier.allocator.capacity
            self._expect(whole, f"{level.name}: free and used bytes do not add up")
            taken = tier.used_bytes + tier.promised_bytes
            fits = taken <= tier.cap_bytes or bool(self.held)
            self._expect(fits, f"{level.name}: {tier.used_bytes} used, cap {tier.cap_bytes}")
        stats = cache.stats
        self._expect(stats.hits + stats.misses == self.lookups, "hits and misses do not add up")
        for tensor, expected in self.held:
            self._expect(same_bits(tensor, expected), "a tensor changed after it was read")

    def end(self) -> None:
        """Forget and close; nothing may be left."""
        self.held.clear()
        self.model.clear()
        for request in self.requests:
            self.cache.discard_request(request)
        self.cache.close()
        self._expect(self.cache.used_bytes == 0, f"{self.cache.used_bytes} bytes after the end")

    def _compare(self, key: EntryKey, found: Tensor | None) -> bool:
        """Compare what was read; True if there was something."""
        expected = self.model.get(key)
        if found is None:
            self.model.pop(key, None)
            return False
        self.served += 1
        right = expected is not None and same_bits(found, expected)
        self._expect(right, f"{key} is not what was put")
        return right

    def _expect(self, holds: bool, note: str) -> None:
        self.found.expect(holds, self.figure, note)


class ResizedTwins(Twins):
    """The same while the caps change and, where copies are late, time passes."""

    def __init__(
        self, rng: random.Random, found: Findings, cache: TieredCache, late: LateCopier | None
    ) -> None:
        super().__init__(rng, found, MISMATCH, cache)
        self._late = late
        self._actions += ((self.resize, 2), (self.pass_time, 2), (self.empty, 1))

    def resize(self) -> None:
        """Give a tier another cap."""
        level = self.rng.choice(list(Tier)[:3])
        pages = self.rng.randrange(1, 10)
        cap = pages * _PAGE if level is not Tier.DEVICE else self.rng.randrange(9000)
        self.cache.resize(level, cap)
        disk = self.cache.slower[Tier.DISK]
        assert isinstance(disk, DiskTier)
        if level is Tier.DISK and disk.used_bytes <= cap:
            taken = disk.held_bytes() - _PAGE  # the file system may need a block for its own use
            self._expect(taken <= cap, f"{taken} bytes on disk, {cap} allowed")

    def pass_time(self) -> None:
        """Let some copies end."""
        if self._late is not None:
            self._late.tick()

    def empty(self) -> None:
        """Forget everything, as when the model has changed."""
        self.cache.empty("a test says so")
        self.model.clear()


def against_dict(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Run so many operations for each combination of faults and late copies."""
    found, served = Findings(), 0
    variants = [(rate, late) for rate in (0.0, 0.2) for late in (False, True)]
    for index, (rate, late) in enumerate(variants):
        for life, start in enumerate(range(0, amount, _LIFE)):
            rng = random.Random(1000 * index + life)
            copier = LateCopier(rng) if late else None
            io = FaultyIO(rng, rate=rate, slow_s=0.0)
            cache = TieredCache(6000, 8192, 5 * _PAGE, cache_dir=folder, io=io, copier=copier)
            twins = ResizedTwins(rng, found, cache, copier)
            for operation in range(min(_LIFE, amount - start)):
                twins.step()
                if operation % 100 == 0:
                    beat()
            twins.end()
            served += twins.served
    left = sorted(path.name for path in folder.iterdir())
    found.expect(not left, MISMATCH, f"files left: {left}")
    return found.outcome(operations=amount, variants=len(variants), reads_served=served)
