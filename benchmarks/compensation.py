"""What makes up for precision that was given up, and what compression and caching give together.

Forecasts: one schedule of at least 3x, and one of evenly spaced steps, whose skipped steps are
estimated in several ways. The best way is chosen on select prompts and reported on test prompts.
Coarse steps: the first steps at half the resolution, brought to the full grid bilinearly or by the
trained network, which is also judged on pairs of estimates of test prompts.
Compression: quantized weights, a block left out (the one that hurts least on train prompts), and a
cached schedule, in all combinations, against the image of the whole model in full precision. Times
are medians of single calls, settings interleaved.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from benchmarks.harness import Benchmark, console, parser, writable
from benchmarks.precision.coarse import coarse_first_steps, draw_coarse
from benchmarks.precision.compression import compression
from benchmarks.precision.drawn import STEPS
from benchmarks.precision.forecasts import forecasts
from ditcache_rl.bench import Board
from ditcache_rl.config import load_env
from ditcache_rl.inference import open_policy
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.schedules import computes_of

#: Share of the steps that the schedule computes: measured 3.3x on two cores.
BUDGET = 0.25


def main() -> None:
    """Measure all, and report."""
    built = parser(__doc__)
    built.add_argument(
        "--picture", type=writable, metavar="FILE", help="draw coarse steps to this PNG"
    )
    options = built.parse_args()
    run = Benchmark()
    config = load_env("shapes")
    pipe = open_pipeline(config.pipeline.source, device=config.pipeline.device)
    board = Board.of(config, pipe, steps=STEPS)
    schedule = open_policy("shapes-ppo").tables[STEPS].within(computes_of(BUDGET, STEPS))
    found = forecasts(board, config, schedule)
    ways = found["policy"]
    best = max(ways, key=lambda way: ways[way]["select_db"])
    coarse = coarse_first_steps(board, config, schedule)
    if options.picture is not None:
        draw_coarse(board, config, options.picture)
    compressed = compression(config, schedule)
    seconds = {name: entry["seconds"] for name, entry in compressed["settings"].items()}
    plain = seconds["full"]
    figures = {
        "best_over_reuse_db_3x": ways[best]["test_db"] - ways["reuse"]["test_db"],
        "sr_over_bilinear_db": coarse["sr_over_bilinear_db"],
        "sr_over_bilinear_image_db": coarse["sr_over_bilinear_image_db"],
        "int8_cache_speedup_x": plain / seconds["int8-dynamic + cache"],
        "int8_speedup_x": plain / seconds["int8-dynamic"],
        "cache_speedup_x": plain / seconds["cache"],
        "pruned_speedup_x": plain / seconds["pruned"],
        "all_speedup_x": plain / seconds["int8-dynamic + pruned + cache"],
    }
    details = {"best": best, "forecasts": found, "coarse": coarse, "compression": compressed}
    _show("forecast", {f"{m}: {w}": found[m][w] for m in found for w in found[m]})
    _show("coarse steps", coarse["settings"])
    _show("compression", compressed["settings"])
    run.finish(figures, details, options.json, title="compensation")


def _show(title: str, lines: Mapping[str, Mapping[str, float]]) -> None:
    names = list(dict.fromkeys(name for line in lines.values() for name in line))
    built = Table(title, *names)
    for name, line in lines.items():
        built.add_row(name, *(f"{line[key]:.4g}" for key in names))
    console.print(built)


if __name__ == "__main__":
    main()
