"""Which models can be cached, and is it safe in a server?

Every denoiser class of diffusers that can be built small is driven by a generic denoising loop, and
whole pipelines with tiny random components by themselves; each must pass all of the checks in
`benchmarks/zoo/checks.py`. `--docs` writes the table that `ditcache-rl list pipelines` prints.

`buildable_count`, `pipelines_count`: denoiser classes and pipelines that were built and examined.
`passed_count`, `passed_share`: how many of both pass all checks.
`laws_count`: how many of these checks hold for every denoiser and pipeline that they apply to.
`row_rounding_share`: in float64, how far a row drawn in a batch, where each row decides for itself,
is from the same row alone, over the largest latent; maximum over the units that take batches.
`row_difference_x_plain`: the same in float32, over how far it is without a cache (at the batch
size where that is most), as root mean squares; maximum over the units.
`row_difference_median_x_plain` is their median, `row_largest_x_plain` the maximum with largest
differences in place of the means (a few roundings over a few), and `row_largest_over_count` at how
many units that is above 1.
`rows8_difference_x_plain`: of largest differences, for eight rows with eight schedules on the tiny
FLUX pipeline.
`threads_identical_count`: of 200 mixed requests (8 threads, 25 each) on one transformer, how many
are bit-identical to running alone; `peer_threads_identical_count` is the same for diffusers'
FirstBlockCache.
`cancel_identical_count`: of 20 cancellations, one at each step, after how many another size is
drawn as by a fresh pipeline; `cancel_left_bytes`: what the cancelled requests left behind.
`ranks_disagree_count`: of 1,000 random steps on two gloo ranks, at how many the ranks disagreed.
`compile_product_share`: speed-up of cache and compiled blocks together, over the product of the two
alone, on `shapes` at batch 1; medians of interleaved calls.
`int8_retarget_s`: seconds to recalibrate the shipped policy for int8 weights (torchao).
`int8_gap_db`: PSNR that the policy loses against full precision, each against its own reference;
mean over budgets, on test prompts.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.multiprocessing.spawn import start_processes

from benchmarks.harness import ROOT, Benchmark, parser
from benchmarks.zoo.checks import denoiser_unit, examine
from benchmarks.zoo.denoisers import DENOISERS
from benchmarks.zoo.docs import NOT_BUILT, table_of, write_docs
from benchmarks.zoo.loop import DenoiserLoop
from benchmarks.zoo.pipelines import PIPELINES, build, pipeline_unit
from benchmarks.zoo.ranks import rank_disagreements
from benchmarks.zoo.requests import cancel_identical, eight_rows, threads_identical
from benchmarks.zoo.rows import Unit, row_gaps
from benchmarks.zoo.stack import compile_figures, int8_figures
from benchmarks.zoo.tiny import build_tiny_pipe
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import EveryK
from ditcache_rl.instrument import BlockRunner

THREADS, EACH = 8, 25
RANK_STEPS = 1000
#: Residual change above which FirstBlockCache computes: it reuses about half of the steps here.
PEER_THRESHOLD = 0.5


def main() -> int:
    """Measure and report."""
    built = parser(__doc__, quick="every third model, a quarter of the requests")
    built.add_argument("--docs", action="store_true", help="write docs/pipelines.md and its table")
    options = built.parse_args()
    torch.set_num_threads(1)
    run = Benchmark()
    every = 3 if options.quick else 1
    lines = [
        *_sweep("denoiser", list(DENOISERS)[::every], lambda n: denoiser_unit(DenoiserLoop(n))),
        *_sweep("pipeline", list(PIPELINES)[::every], lambda n: pipeline_unit(n, build(n))),
    ]
    passed = sum(line["passed"] for line in lines)
    figures: dict[str, float] = {
        "buildable_count": sum(line["kind"] == "denoiser" for line in lines),
        "pipelines_count": sum(line["kind"] == "pipeline" for line in lines),
        "passed_count": passed,
        "passed_share": passed / len(lines),
        "laws_count": _laws(lines),
    }
    gaps = [line["row_gaps"] for line in lines if line.get("row_gaps") is not None]
    largest, means = zip(*gaps, strict=True)
    figures |= {
        "row_rounding_share": max(line.get("row_rounding") or 0.0 for line in lines),
        "row_difference_x_plain": max(means),
        "row_difference_median_x_plain": statistics.median(means),
        "row_largest_x_plain": max(largest),
        "row_largest_over_count": sum(ratio > 1 for ratio in largest),
        "rows8_difference_x_plain": eight_rows(build_tiny_pipe()).largest,
    }
    each = EACH // 4 if options.quick else EACH
    figures |= _request_figures(each)
    figures |= compile_figures(pairs=5 if options.quick else 15)
    figures |= int8_figures(prompts=4 if options.quick else 32)
    run.finish(figures, {"rows": lines, "not_built": NOT_BUILT}, options.json, title="coverage")
    if options.docs:
        write_docs(table_of(lines), ROOT)
    return 0


def _sweep(kind: str, names: list[str], make: Callable[[str], Unit]) -> list[dict[str, Any]]:
    """Examine units; what goes wrong is a line that did not pass."""
    lines = []
    for name in track(names, description=f"{kind}s"):
        line: dict[str, Any] = {"kind": kind, "name": name, "passed": False}
        try:
            unit = make(name)
            found = examine(unit, seed=len(name))
            line["row_gaps"] = row_gaps(unit) if unit.rows else None
        except Exception as error:
            line["error"] = "".join(traceback.format_exception_only(error))[:500].strip()
        else:
            line |= found._asdict() | {"passed": found.passed}
        lines.append(line)
        if not line["passed"]:
            print(json.dumps(line))
    return lines


def _laws(lines: list[dict[str, Any]]) -> int:
    """Count the checks that hold wherever they were made; a unit that failed holds to none."""
    if any("error" in line for line in lines):
        return 0
    names = {name for line in lines for name in line["checks"]}
    return sum(all(line["checks"].get(name, True) for line in lines) for name in names)


def _request_figures(each: int) -> dict[str, float]:
    pipe = build_tiny_pipe()
    ours = threads_identical(
        pipe,
        lambda: BlockRunner(pipe, EveryK(2, order=1), TieredCache(), sites=2),
        threads=THREADS,
        each=each,
    )
    peer = threads_identical(pipe, lambda: _first_block_cache(pipe), threads=THREADS, each=each)
    right, left = cancel_identical(pipe)
    with tempfile.TemporaryDirectory() as folder:
        start_processes(  # type: ignore[no-untyped-call]
            rank_disagreements, (2, folder, RANK_STEPS), nprocs=2
        )
        disagreed = int((Path(folder) / "disagreements").read_text())
    return {
        "threads_identical_count": ours,
        "peer_threads_identical_count": peer,
        "threads_count": THREADS * each,
        "cancel_identical_count": right,
        "cancel_left_bytes": left,
        "ranks_disagree_count": disagreed,
    }


@contextmanager
def _first_block_cache(pipe: Any) -> Any:
    from diffusers import FirstBlockCacheConfig

    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=PEER_THRESHOLD))
    try:
        yield
    finally:
        pipe.transformer.disable_cache()


if __name__ == "__main__":
    raise SystemExit(main())
