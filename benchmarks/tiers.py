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
from pathlib import Path
from typing import NamedTuple

from benchmarks.costs.capped import capped, checks, memory
from benchmarks.costs.throughput import small_operations, speed_table, throughput, worst
from benchmarks.harness import ROOT, Benchmark, console, parser
from benchmarks.traces.loops import (
    adaptive_schedule,
    mean_rates,
    per_block_schedule,
    rates_table,
    rule_rates,
    store_rate,
)
from ditcache_rl.shapes import load_pipeline


class TierAmounts(NamedTuple):
    """How much of everything is measured."""

    rounds: int
    small: int
    traces: int
    steps: int
    pairs: int
    sides: tuple[int, ...]


FULL = TierAmounts(15, 4000, 20, 28, 3, (64, 128, 256, 512))
QUICK = TierAmounts(5, 1000, 5, 12, 1, (64, 128, 256))


def main() -> None:
    """Measure, and report."""
    less = f"{QUICK.steps} steps instead of {FULL.steps}, no {FULL.sides[-1]} px, fewer rounds"
    options = parser(__doc__, quick=less).parse_args()
    run = Benchmark()
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
    folder: Path, amounts: TierAmounts, figures: dict[str, float], details: dict[str, object]
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
    capped_figures, details["capped"] = capped(
        pipe, folder, steps=amounts.steps, pairs=amounts.pairs
    )
    figures |= capped_figures
    figures["checks_share"], details["checks"] = checks(pipe)
    details["memory"] = memory(pipe, folder, amounts.sides)


if __name__ == "__main__":
    main()
