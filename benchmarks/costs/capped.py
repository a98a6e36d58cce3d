"""What caps on the memory of the tiers, and the checks of what they hold, cost an image."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import xxhash
from rich.progress import track
from rich.table import Table

from benchmarks.harness import console
from ditcache_rl.bench import Case, Drawn, draw
from ditcache_rl.cache import TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.integrity import is_finite
from ditcache_rl.control import StaticSchedule
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.fingerprint import ModelWatch
from ditcache_rl.shapes import CALL
from ditcache_rl.types import Mode, Modes, Tier

PROMPT = "a large plain red star at left on a white background"
SIDE = 256
DEVICE_SHARE, HOST_SHARE = 0.1, 0.5
CHILL_S = 0.1


def staggered(steps: int, sites: int, order: Mode, *, warm: int = 3, period: int = 3) -> Modes:
    """Compute the first steps, then each site every `period` steps, its neighbour one later.

    At every step a part of the sites computes, which is when the others' entries can be loaded.
    """
    phases = np.arange(steps)[:, None] - np.arange(sites)
    modes = np.where(phases % period == 0, Mode.COMPUTE, order).astype(np.int8)
    modes[:warm] = Mode.COMPUTE
    return modes


def drawn(pipe: Any, modes: Modes, cache: TieredCache, side: int) -> Drawn:
    """Draw an image of a side length."""
    steps, sites = modes.shape
    return draw(
        pipe,
        [Case(PROMPT, 0)],
        StaticSchedule.of(modes),
        steps=steps,
        call=CALL | {"height": side, "width": side},
        sites=sites,
        cache=cache,
    )


@contextmanager
def chilled(cache: TieredCache) -> Iterator[None]:
    """Write the disk tier out and drop its pages every moment, so that reads come from the disk."""
    disk, stop = cache.slower[Tier.DISK], threading.Event()
    assert isinstance(disk, DiskTier)

    def chill() -> None:
        while not stop.wait(CHILL_S):
            disk.make_cold()

    thread = threading.Thread(target=chill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def capped_cache(folder: Path, working_set: int) -> TieredCache:
    """Make a store with a tenth of a working set on the device and half of it in the host tier."""
    device, host = int(DEVICE_SHARE * working_set), int(HOST_SHARE * working_set)
    return TieredCache(device, host, working_set, cache_dir=folder)


def capped(
    pipe: Any, folder: Path, *, steps: int, pairs: int
) -> tuple[dict[str, float], dict[str, object]]:
    """Compare calls without and with caps, in pairs whose order alternates."""
    sites = len(find_blocks(pipe.transformer))
    modes = staggered(steps, sites, Mode.FORECAST2)
    free = TieredCache()
    expected = drawn(pipe, modes, free, SIDE).images
    working_set = free.stats.peak_bytes
    cache = capped_cache(folder, working_set)
    cap = cache.device.cap_bytes or 0
    ratios, same = [], True
    with chilled(cache):
        drawn(pipe, modes, cache, SIDE)  # touches the slabs for the first time
        for pair in track(range(pairs), "capped", console=console, transient=True):
            seconds = {}
            for tiered in (False, True) if pair % 2 == 0 else (True, False):
                images, _, seconds[tiered] = drawn(pipe, modes, cache if tiered else free, SIDE)
                same = same and torch.equal(images, expected)
            ratios.append(seconds[True] / seconds[False])
    stats = cache.stats
    cache.close()
    figures = {
        "capped_slowdown_share": median(ratios) - 1,
        "capped_identical": float(same),
        "capped_over_cap_bytes": float(max(0, stats.peak_device_bytes - cap)),
        "load_hidden_share": stats.hidden_share,
    }
    counts = {name: getattr(stats, name) for name in type(stats).__dataclass_fields__}
    return figures, {
        "side": SIDE,
        "steps": len(modes),
        "sites": sites,
        "working_set_bytes": working_set,
        "device_cap_bytes": cap,
        "ratios": ratios,
        "stats": counts,
    }


def checks(pipe: Any) -> tuple[float, dict[str, object]]:
    """Price the checks of an image that is drawn with every block cached and spilled to disk."""
    sites = len(find_blocks(pipe.transformer))
    modes = staggered(28, sites, Mode.FORECAST2)
    cache, watch = TieredCache(), ModelWatch(pipe.transformer)
    seconds = median(drawn(pipe, modes, cache, 64).seconds for _ in range(5))
    puts = cache.stats.puts / 5
    entry = torch.randn(cache.stats.peak_bytes // (3 * sites) // 4)
    data = memoryview(entry.numpy().data).cast("B")
    parts = {
        "fingerprint_s": 2 * timed(lambda: watch.look()),
        "finite_s": puts * timed(lambda: is_finite(entry)),
        # Written once and read three times.
        "checksum_s": 4 * puts * timed(lambda: xxhash.xxh3_64_intdigest(data)),
    }
    return sum(parts.values()) / seconds, {**parts, "image_s": seconds, "puts": puts}


def timed(call: Any, count: int = 50) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def memory(pipe: Any, folder: Path, sides: Sequence[int]) -> list[dict[str, float | str]]:
    """Tell the most bytes that caches hold per side length, without and with tiers."""
    blocks = len(find_blocks(pipe.transformer))
    kinds = {
        "stack, reuse": (1, Mode.REUSE),
        "per block, reuse": (blocks, Mode.REUSE),
        "per block, order 2": (blocks, Mode.FORECAST2),
    }
    lines: list[dict[str, float | str]] = []
    for side in track(sides, "memory", console=console, transient=True):
        for kind, (sites, order) in kinds.items():
            modes = np.zeros((4, sites), dtype=np.int8)
            modes[3] = order
            free = TieredCache()
            drawn(pipe, modes, free, side)
            cache = capped_cache(folder, free.stats.peak_bytes)
            drawn(pipe, modes, cache, side)
            cache.close()
            lines.append(
                {
                    "side": side,
                    "kind": kind,
                    "device_alone_bytes": free.stats.peak_bytes,
                    "device_with_tiers_bytes": cache.stats.peak_device_bytes,
                    "all_tiers_bytes": cache.stats.peak_bytes,
                    "misses": cache.stats.misses,
                }
            )
    table = Table(title="most bytes held, MiB", title_justify="left")
    for name in ("side", "cached", "device alone", "device with tiers", "all tiers"):
        table.add_column(name, justify="left" if name == "cached" else "right")
    for line in lines:
        sizes = [f"{float(v) / 2**20:.2f}" for k, v in line.items() if k.endswith("_bytes")]
        table.add_row(str(line["side"]), str(line["kind"]), *sizes)
    console.print(table)
    return lines
