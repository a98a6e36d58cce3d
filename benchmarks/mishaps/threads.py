"""Eight threads on one store."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.mishaps.machine import Twins
from benchmarks.mishaps.outcome import CRASH, MISMATCH, STALE, Beat, CaseOutcome, Findings
from ditcache_rl.cache import Outlook, TieredCache
from ditcache_rl.types import EntryKey, Tier

_COUNT = 8
_SHAPES: tuple[tuple[int, ...], ...] = ((5,), (30, 40), (700,), (40, 60))
#: Seconds between switches: Python's own, and so few that threads meet within a statement.
_INTERVALS_S = (0.005, 1e-6)


def distinct_keys(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Let each thread do so many operations on entries of its own."""
    found = Findings()
    for interval in _INTERVALS_S:
        cache = TieredCache(8192, 16384, 1 << 18, cache_dir=folder)
        work = [partial(_own, cache, found, thread, amount, beat) for thread in range(_COUNT)]
        _together(found, work, interval)
        _close(found, cache)
    return found.outcome(threads=_COUNT, operations=amount, intervals_s=_INTERVALS_S)


def _own(cache: TieredCache, found: Findings, request: int, amount: int, beat: Beat) -> None:
    twins = _Alone(
        random.Random(request),
        found,
        MISMATCH,
        cache,
        requests=range(request, request + 1),
        shapes=_SHAPES,
    )
    for _ in range(amount):
        twins.step()
        beat()
    twins.held.clear()
    cache.discard_request(request)


class _Alone(Twins):
    """A dict beside a part of a store; what counts the whole store is not this thread's."""

    def check(self) -> None:
        """Check what no other thread changes."""
        for key in self.model:
            where = self.where(key)
            self._expect(len(where) <= 2, f"{key} is in {where}")  # it may just be moving


def same_keys(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Let each thread do so many operations on entries of all of them.

    A key has one writer, who counts up, so that every reader knows what is too old.
    """
    found = Findings()
    for interval in _INTERVALS_S:
        cache = TieredCache(8192, 16384, 1 << 18, cache_dir=folder)
        newest = [0] * _COUNT
        work = [
            partial(_write_own_read_all, cache, found, newest, thread, amount, beat)
            for thread in range(_COUNT)
        ]
        _together(found, work, interval)
        _close(found, cache)
    return found.outcome(threads=_COUNT, operations=amount, intervals_s=_INTERVALS_S)


def _write_own_read_all(
    cache: TieredCache, found: Findings, newest: list[int], mine: int, amount: int, beat: Beat
) -> None:
    rng, count = random.Random(100 + mine), 0
    for now in range(amount):
        action, other = rng.randrange(10), rng.randrange(_COUNT)
        key = EntryKey(0, 0, other, 0)
        if action < 4:
            count += 1
            tensor = torch.full((rng.choice((5, 700, 1500)),), float(count * _COUNT + mine))
            tier = Tier(rng.randrange(3))
            if cache.put(EntryKey(0, 0, mine, 0), tensor, tier, Outlook(now, now + 1 + mine)):
                newest[mine] = count
        elif action < 8:
            at_least = newest[other]
            tensor_read = cache.get(key)
            if tensor_read is not None:
                first = tensor_read[0].item()
                whole = bool((tensor_read == first).all()) and first % _COUNT == other
                found.expect(whole, MISMATCH, f"thread {mine} read a mixture at {key}")
                found.expect(first // _COUNT >= at_least, STALE, f"thread {mine} at {key}")
        elif action < 9:
            cache.prefetch([key])
        else:
            cache.discard(key)
        beat()


def closed_meanwhile(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Close a store under eight threads, so many times; nothing may be left in it."""
    found, rng = Findings(), random.Random(11)
    for life in range(amount):
        cache = TieredCache(8192, 16384, 1 << 18, cache_dir=folder)
        newest = [0] * _COUNT
        work = [
            partial(_write_own_read_all, cache, found, newest, thread, 100, beat)
            for thread in range(_COUNT)
        ]
        _together(found, [*work, partial(_close_later, cache, rng.uniform(0, 0.01))], 1e-6)
        used = cache.used_bytes
        found.expect(not used, MISMATCH, f"{used} bytes in store {life} after it was closed")
    return found.outcome(threads=_COUNT, closed=amount)


def _close_later(cache: TieredCache, seconds: float) -> None:
    time.sleep(seconds)
    cache.close()


def _together(found: Findings, work: Sequence[Callable[[], None]], interval: float) -> None:
    """Run all in threads; an exception in one is a crash."""

    def run(part: Callable[[], None]) -> None:
        try:
            start.wait()
            part()
        except Exception as error:
            found.add(CRASH, repr(error))

    start = threading.Barrier(len(work))
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        threads = [threading.Thread(target=run, args=(part,), daemon=True) for part in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)


def _close(found: Findings, cache: TieredCache) -> None:
    stats = cache.stats
    cache.discard_request(0)
    cache.close()
    found.expect(cache.used_bytes == 0, MISMATCH, f"{cache.used_bytes} bytes after the end")
    found.expect(stats.errors == stats.corrupt == 0, MISMATCH, "entries were damaged")
    busy = [t.name for t in threading.enumerate() if t.name.startswith("ditcache-io")]
    found.expect(not busy, MISMATCH, f"threads after the end: {busy}")
