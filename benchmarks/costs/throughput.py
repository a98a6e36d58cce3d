"""How fast bytes go in and out of the tiers, beside what the machine can do and what others do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import diskcache
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file

from ditcache_rl.cache import TieredCache
from ditcache_rl.types import EntryKey, Tier

SIZES_MIB = (1, 4, 16, 64)
SMALL_BYTES = 1024
#: Entries of a round, together: several times what a core's caches hold, since nobody stores the
#: same entry again and again.
ROUND_BYTES = 128 << 20
#: Writers that are slow: a few rounds of them are enough.
_SLOW = ("safetensors_put", "diskcache_put")
_SLOW_ROUNDS = 2


def throughput(folder: Path, rounds: int, console: Console) -> dict[str, dict[str, float]]:
    """Time every operation at every size: on each entry of a round, one operation after the other.

    Returns:
        By size in MiB, by operation: median over the rounds of the seconds per entry; with `rounds`
        and `entries` of it.
    """
    found: dict[str, dict[str, float]] = {}
    for mib in track(SIZES_MIB, "throughput", console=console, transient=True):
        nbytes, entries = mib << 20, ROUND_BYTES // (mib << 20)
        room = ROUND_BYTES + nbytes  # an entry is replaced once its successor is written
        fd = os.open(folder / "raw", os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(fd, 0, ROUND_BYTES)
        with (
            diskcache.Cache(str(folder / "diskcache"), size_limit=4 * ROUND_BYTES) as peer,
            closing(TieredCache(0, room, room, cache_dir=folder)) as cache,
        ):
            operations = _operations(cache, fd, folder, peer, nbytes)
            seconds: dict[str, list[float]] = {name: [] for name in operations}
            for number in range(-1, rounds):  # the first one warms up: first touches do not count
                for name, call in operations.items():
                    if name in _SLOW and number >= _SLOW_ROUNDS:
                        continue
                    started = time.perf_counter()
                    for index in range(entries):
                        call(index)
                    elapsed = time.perf_counter() - started
                    if number >= 0:
                        seconds[name].append(elapsed / entries)
        os.close(fd)
        found[str(mib)] = {name: median(times) for name, times in seconds.items()}
        found[str(mib)] |= {"rounds": rounds, "entries": entries}
    return found


def _operations(
    cache: TieredCache, fd: int, folder: Path, peer: diskcache.Cache, nbytes: int
) -> dict[str, Callable[[int], object]]:
    """Name what is timed, each on the entry of an index."""
    sources = torch.randn(ROUND_BYTES // 4).view(-1, nbytes // 4)
    targets = torch.zeros(ROUND_BYTES // 4).view(-1, nbytes // 4)
    data = [memoryview(source.numpy().data).cast("B") for source in sources]
    into = memoryview(np.zeros(nbytes, dtype=np.uint8).data)

    def put(tier: Tier, index: int) -> None:
        assert cache.put(EntryKey(0, 0, tier, index), sources[index], tier)

    def host_get(index: int) -> None:
        # Reading in place moves nothing, so what is timed includes moving it.
        entry = cache.get(EntryKey(0, 0, Tier.HOST, index))
        assert entry is not None
        targets[index].copy_(entry)

    def disk_get(index: int) -> None:
        assert cache.get(EntryKey(0, 0, Tier.DISK, index)) is not None

    return {
        "copy": lambda i: targets[i].copy_(sources[i]),
        "host_put": lambda i: put(Tier.HOST, i),
        "host_get": host_get,
        "raw_write": lambda i: os.pwrite(fd, data[i], i * nbytes),
        "disk_put": lambda i: put(Tier.DISK, i),
        "raw_read": lambda i: os.preadv(fd, [into], i * nbytes),
        "disk_get": disk_get,
        "safetensors_put": lambda i: save_file({"entry": sources[i]}, folder / f"{i}.safetensors"),
        "diskcache_put": lambda i: peer.set(i, bytes(data[i])),
    }


def small_operations(folder: Path, count: int) -> dict[str, float]:
    """Time single puts and gets of a small entry per tier: median seconds."""
    found = {}
    entry = torch.randn(SMALL_BYTES // 4)
    for level in (Tier.DEVICE, Tier.HOST, Tier.DISK):
        cache = TieredCache(
            1 << 20 if level is Tier.DEVICE else 0, 1 << 20, 1 << 20, cache_dir=folder
        )
        puts, gets = [], []
        for index in range(count):
            key = EntryKey(0, 0, index % 64, 0)
            started = time.perf_counter()
            kept = cache.put(key, entry, level)
            middle = time.perf_counter()
            entry_back = cache.get(key)
            ended = time.perf_counter()
            assert kept
            assert entry_back is not None
            puts.append(middle - started)
            gets.append(ended - middle)
        cache.close()
        found[f"{level.name.lower()}_put"] = median(puts)
        found[f"{level.name.lower()}_get"] = median(gets)
    return found


def worst(speeds: dict[str, dict[str, float]], base: str, ours: str) -> float:
    """Return the smallest ratio of two speeds over all sizes."""
    return min(line[base] / line[ours] for line in speeds.values())


def speed_table(speeds: dict[str, dict[str, float]]) -> Table:
    """Lay out GB/s by operation and size."""
    built = Table(title="GB/s", title_justify="left")
    built.add_column("operation")
    for mib in speeds:
        built.add_column(f"{mib} MiB", justify="right")
    for name in next(iter(speeds.values())):
        if name not in ("rounds", "entries"):
            cells = [(int(mib) << 20) / line[name] / 1e9 for mib, line in speeds.items()]
            built.add_row(name, *(f"{cell:.2f}" for cell in cells))
    return built
