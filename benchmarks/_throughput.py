"""How fast bytes go in and out of the tiers, beside what the machine can do and what others do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import diskcache
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

from ditcache_rl.cache import TieredCache
from ditcache_rl.types import EntryKey, Tier

SIZES_MIB = (1, 4, 16, 64)
SMALL_BYTES = 1024
KEY = EntryKey(0, 0, 0, 0)
#: Writers that are slow: a few rounds of them are enough.
_SLOW = ("safetensors_put", "diskcache_put")


def throughput(folder: Path, rounds: int, console: Console) -> dict[str, dict[str, float]]:
    """Time every operation at every size, one after the other within each round.

    Returns:
        By size in MiB, by operation: median seconds; with `rounds` of it.
    """
    found: dict[str, dict[str, float]] = {}
    for mib in track(SIZES_MIB, "throughput", console=console, transient=True):
        nbytes = mib << 20
        count = max(5, rounds // mib)
        cache = TieredCache(0, 2 * nbytes, 2 * nbytes, cache_dir=folder)
        fd = os.open(folder / "raw", os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(fd, 0, nbytes)
        with diskcache.Cache(str(folder / "diskcache")) as peer:
            operations = _operations(cache, fd, folder, peer, nbytes)
            seconds: dict[str, list[float]] = {name: [] for name in operations}
            for index in range(-2, count):  # two rounds warm up: first touches are not the matter
                for name, call in operations.items():
                    if name in _SLOW and index >= 5:
                        continue
                    started = time.perf_counter()
                    call()
                    elapsed = time.perf_counter() - started
                    if index >= 0:
                        seconds[name].append(elapsed)
        os.close(fd)
        cache.close()
        found[str(mib)] = {name: median(times) for name, times in seconds.items()}
        found[str(mib)]["rounds"] = count
    return found


def _operations(
    cache: TieredCache, fd: int, folder: Path, peer: diskcache.Cache, nbytes: int
) -> dict[str, Callable[[], object]]:
    source = torch.randn(nbytes // 4)
    target = torch.empty_like(source)
    data = memoryview(source.numpy().data).cast("B")
    into = memoryview(np.zeros(nbytes, dtype=np.uint8).data)
    disk_key = EntryKey(0, 0, 1, 0)

    def host_get() -> None:
        # Reading in place moves nothing, so what is timed includes moving it.
        entry = cache.get(KEY)
        assert entry is not None
        target.copy_(entry)

    def disk_get() -> None:
        assert cache.get(disk_key) is not None

    return {
        "copy": lambda: target.copy_(source),
        "host_put": lambda: cache.put(KEY, source, Tier.HOST),
        "host_get": host_get,
        "raw_write": lambda: os.pwrite(fd, data, 0),
        "disk_put": lambda: cache.put(disk_key, source, Tier.DISK),
        "raw_read": lambda: os.preadv(fd, [into], 0),
        "disk_get": disk_get,
        "safetensors_put": lambda: save_file({"entry": source}, folder / "entry.safetensors"),
        "diskcache_put": lambda: peer.set("entry", bytes(data)),
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
