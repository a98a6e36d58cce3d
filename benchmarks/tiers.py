"""How fast are the tiers, how well do they choose, and what does a small device cost?

Everything is measured side by side in one run; medians, at the worst size.

All throughput is that of a round over many entries, 128 MiB together: nobody stores the same entry
again and again, which then never leaves a core's cache.
`host_put_x_copy`, `host_get_x_copy`: speed over that of a copy into preallocated tensors. On a CPU
a get returns the bytes where they lie; the copy out of them is counted with it.
`disk_put_x_raw`, `disk_get_x_raw`: over pwrite and preadv on a preallocated file, warm, one buffer;
checks and checksums included; a put returns when its bytes are in the slab.
`disk_put_x_safetensors`, `disk_put_x_diskcache`: over a file per entry;
`raw_write_x_safetensors` is the most that any writer of a preallocated file can reach there.
`small_op_s`: the slowest of put and get of 1 KiB in each tier.
`static_hit_gap_to_belady_share`: hit rate of Belady minus that of the device tier, which holds half
of the entries of a loop with a refresh period per site. `online_hit_over_mru_share`: hit rate of
the device tier minus that of MRU, decisions unknown.
`capped_*`: the embedded pipeline at four times its trained side length, one site per block, order-2
forecasts; device cap at a tenth of what the uncapped run holds, host half of that, disk the rest,
the disk's pages dropped ten times a second. `capped_slowdown_share` is the median over pairs of
calls; `capped_over_cap_bytes` is what the device held beyond its cap.
`load_hidden_share`: share of the load time of those runs in which nobody stood still.
`checks_share`: time for fingerprints, finite checks and checksums over the time of an image.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import xxhash
from rich.progress import track
from rich.table import Table

from ditcache_rl.cache import TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.integrity import is_finite
from ditcache_rl.control import StaticSchedule
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.fingerprint import ModelWatch
from ditcache_rl.shapes import CALL, load_pipeline
from ditcache_rl.types import Mode, Modes, Tier

if TYPE_CHECKING:
    from benchmarks._report import ROOT, Run, console, parser
    from benchmarks._throughput import small_operations, throughput
    from benchmarks._traces import adaptive_schedule, per_block_schedule, rule_rates, store_rate
else:
    from _report import ROOT, Run, console, parser
    from _throughput import small_operations, throughput
    from _traces import adaptive_schedule, per_block_schedule, rule_rates, store_rate

PROMPT = "a large plain red star at left on a white background"
SIDE = 256
DEVICE_SHARE, HOST_SHARE = 0.1, 0.5
CHILL_S = 0.1


class Amounts(NamedTuple):
    """How much of everything is measured."""

    rounds: int
    small: int
    traces: int
    steps: int
    pairs: int
    sides: tuple[int, ...]


FULL = Amounts(15, 4000, 20, 28, 3, (64, 128, 256, 512))
QUICK = Amounts(5, 1000, 5, 12, 1, (64, 128, 256))


def main() -> None:
    """Measure, and report."""
    less = f"{QUICK.steps} steps instead of {FULL.steps}, no {FULL.sides[-1]} px, fewer rounds"
    options = parser(__doc__, quick=less).parse_args()
    run = Run()
    amounts = QUICK if options.quick else FULL
    (ROOT / "runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tiers-", dir=ROOT / "runs"))
    figures: dict[str, float] = {}
    details: dict[str, object] = {}
    try:
        measure(folder, amounts, figures, details)
    finally:
        shutil.rmtree(folder)
    run.finish(figures, details, options.json, title="tiers")


def measure(
    folder: Path, amounts: Amounts, figures: dict[str, float], details: dict[str, object]
) -> None:
    """Fill in figures and details."""
    speeds = throughput(folder, amounts.rounds, console)
    figures["host_put_x_copy"] = worst(speeds, "copy", "host_put")
    figures["host_get_x_copy"] = worst(speeds, "copy", "host_get")
    figures["disk_put_x_raw"] = worst(speeds, "raw_write", "disk_put")
    figures["disk_get_x_raw"] = worst(speeds, "raw_read", "disk_get")
    figures["disk_put_x_safetensors"] = worst(speeds, "safetensors_put", "disk_put")
    figures["disk_put_x_diskcache"] = worst(speeds, "diskcache_put", "disk_put")
    figures["raw_write_x_safetensors"] = worst(speeds, "safetensors_put", "raw_write")
    console.print(speed_table(speeds))
    small = small_operations(folder, amounts.small)
    figures["small_op_s"] = max(small.values())
    details |= {"seconds_by_mib": speeds, "small_s": small}

    static = per_block_schedule()
    adaptive = [adaptive_schedule(seed) for seed in range(amounts.traces)]
    rates = {
        "static": rule_rates(static) | {"store": store_rate(static, known=True)},
        "adaptive": mean_rates(
            [rule_rates(m) | {"store": store_rate(m, known=False)} for m in adaptive]
        ),
    }
    figures["static_hit_gap_to_belady_share"] = rates["static"]["belady"] - rates["static"]["store"]
    figures["online_hit_over_mru_share"] = rates["adaptive"]["store"] - rates["adaptive"]["mru"]
    console.print(rates_table(rates))
    details["hit_rates"] = rates | {"adaptive_traces": len(adaptive)}

    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    capped_figures, details["capped"] = capped(pipe, folder, amounts)
    figures |= capped_figures
    figures["checks_share"], details["checks"] = checks(pipe)
    details["memory"] = memory(pipe, folder, amounts.sides)


def worst(speeds: dict[str, dict[str, float]], base: str, ours: str) -> float:
    """Return the smallest ratio of two speeds over all sizes."""
    return min(row[base] / row[ours] for row in speeds.values())


def mean_rates(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average hit rates name by name."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def staggered(steps: int, sites: int, order: Mode, *, warm: int = 3, period: int = 3) -> Modes:
    """Compute the first steps, then each site every `period` steps, its neighbour one later.

    At every step a part of the sites computes, which is when the others' entries can be loaded.
    """
    phases = np.arange(steps)[:, None] - np.arange(sites)
    modes = np.where(phases % period == 0, Mode.COMPUTE, order).astype(np.int8)
    modes[:warm] = Mode.COMPUTE
    return modes


def draw(pipe: Any, modes: Modes, cache: TieredCache, side: int) -> tuple[torch.Tensor, float]:
    """Return an image and the seconds of its call; attaching is outside of the clock."""
    with BlockRunner(pipe, StaticSchedule.of(modes), cache, sites=modes.shape[1]):
        started = time.perf_counter()
        images = pipe(
            PROMPT,
            num_inference_steps=len(modes),
            generator=torch.Generator("cpu").manual_seed(0),
            output_type="pt",
            **(CALL | {"height": side, "width": side}),
        ).images
        return images, time.perf_counter() - started


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


def capped(pipe: Any, folder: Path, amounts: Amounts) -> tuple[dict[str, float], dict[str, object]]:
    """Compare calls without and with caps, in pairs whose order alternates."""
    sites = len(find_blocks(pipe.transformer))
    modes = staggered(amounts.steps, sites, Mode.FORECAST2)
    free = TieredCache()
    expected, _ = draw(pipe, modes, free, SIDE)
    working_set = free.stats.peak_bytes
    cache = capped_cache(folder, working_set)
    cap = cache.device.cap_bytes or 0
    ratios, same = [], True
    with chilled(cache):
        draw(pipe, modes, cache, SIDE)  # touches the slabs for the first time
        for pair in track(range(amounts.pairs), "capped", console=console, transient=True):
            seconds = {}
            for tiered in (False, True) if pair % 2 == 0 else (True, False):
                image, seconds[tiered] = draw(pipe, modes, cache if tiered else free, SIDE)
                same = same and torch.equal(image, expected)
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
    seconds = median(draw(pipe, modes, cache, 64)[1] for _ in range(5))
    puts = cache.stats.puts / 5
    entry = torch.randn(cache.stats.peak_bytes // (3 * sites) // 4)
    data = memoryview(entry.numpy().data).cast("B")
    parts = {
        "fingerprint_s": 2 * timed(lambda: watch.look(pipe.scheduler)),
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
    rows: list[dict[str, float | str]] = []
    for side in track(sides, "memory", console=console, transient=True):
        for kind, (sites, order) in kinds.items():
            modes = np.zeros((4, sites), dtype=np.int8)
            modes[3] = order
            free = TieredCache()
            draw(pipe, modes, free, side)
            cache = capped_cache(folder, free.stats.peak_bytes)
            draw(pipe, modes, cache, side)
            cache.close()
            rows.append(
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
    for row in rows:
        sizes = [f"{float(v) / 2**20:.2f}" for k, v in row.items() if k.endswith("_bytes")]
        table.add_row(str(row["side"]), str(row["kind"]), *sizes)
    console.print(table)
    return rows


def speed_table(speeds: dict[str, dict[str, float]]) -> Table:
    """Lay out GB/s by operation and size."""
    built = Table(title="GB/s", title_justify="left")
    built.add_column("operation")
    for mib in speeds:
        built.add_column(f"{mib} MiB", justify="right")
    for name in next(iter(speeds.values())):
        if name not in ("rounds", "entries"):
            cells = [(int(mib) << 20) / row[name] / 1e9 for mib, row in speeds.items()]
            built.add_row(name, *(f"{cell:.2f}" for cell in cells))
    return built


def rates_table(rates: dict[str, dict[str, float]]) -> Table:
    """Lay out hit rates by rule and trace."""
    built = Table(title="hits of a device tier for half of the entries", title_justify="left")
    built.add_column("rule")
    for trace in rates:
        built.add_column(trace, justify="right")
    for rule in next(iter(rates.values())):
        built.add_row(rule, *(f"{100 * row[rule]:.1f} %" for row in rates.values()))
    return built


if __name__ == "__main__":
    main()
