"""Measure exactly what deciding per prompt can gain over the best static schedule, at 12 steps.

Every schedule whose first step is computed is scored on every prompt: 2,048 of them, once with
forecasts of order 1 between and once with reuse. (Half of them compute the last step too, as papers
do; on this board that wastes a compute, so an opponent bound to it would be too weak.) The table
lies in `benchmarks/results`; `--rebuild` makes it anew. Static schedules are chosen on one half of
the prompts, all figures are of the other half. Figures without a kind in their name are those of
the forecast table. A policy may fill the steps between with better forecasts than the table knows,
so that its share of the headroom may exceed 1 without a decision of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, Benchmark, console, parser
from benchmarks.trees.judged import searches, static_and_oracle, table_error
from benchmarks.trees.predictors import predictors
from benchmarks.trees.rivals import fewer_steps, heuristics, policy_plays
from benchmarks.trees.sheets import show
from benchmarks.trees.table import (
    HALF,
    STEPS,
    assemble,
    build,
    read_tables,
    table_board,
)
from benchmarks.trees.yardstick import COMPUTES, Yardstick
from ditcache_rl.config import load_env

TABLE = ROOT / "benchmarks" / "results" / "headroom-shapes-12.safetensors"
PIECES = ROOT / "runs" / "headroom"


def main(arguments: list[str] | None = None) -> None:
    """Read or build the table, compare everything with it, and report."""
    options = _options().parse_args(arguments)
    run = Benchmark(arguments)
    config = load_env("shapes")
    if options.rebuild and not options.resume:
        shutil.rmtree(PIECES, ignore_errors=True)
    if options.rebuild or not options.table.exists():
        build("shapes", PIECES, half=options.half)
        assemble(config, PIECES, options.table, half=options.half)
    tables = read_tables(options.table)
    rng = np.random.default_rng(0)
    figures: dict[str, float] = {}
    details: dict[str, Any] = {"tables": {}}
    board = table_board(config)
    first = tables[0]
    console.print("references of both halves")
    board.prepare([*first.choose.cases, *first.held_out.cases])
    figures["table_error_db"] = max(table_error(table, board, rng) for table in tables)
    for table in tables:
        details["tables"][table.kind] = static_and_oracle(table, figures, rng)
        details["tables"][table.kind]["searches"] = searches(table, board)
        details["tables"][table.kind]["predictors"] = {
            str(computes): [one._asdict() for one in predictors(board, Yardstick(table, computes))]
            for computes in COMPUTES
        }
    contenders = [*fewer_steps(board, first), *heuristics(board, first)]
    for folder in options.policies:
        contenders += policy_plays(board, first, folder, figures, rng)
    for line in contenders:
        yardstick = Yardstick(first, line["budget"])
        psnr = np.array(line.pop("held_out"))
        gain, share = yardstick.gain(psnr), yardstick.share(psnr, rng)
        line |= {
            "psnr_db": float(psnr.mean()),
            "p5_db": float(np.percentile(psnr, 5)),
            "minus_static_db": gain.mean,
            "ci95": [gain.low, gain.high],
            "headroom_share": share and share.value,
            "headroom_share_ci95": share and [share.low, share.high],
        }
    details["contenders"] = contenders
    show(details, first)
    run.finish(figures, details, options.json, title=f"shapes, {STEPS} steps, held-out prompts")


def _options() -> Any:
    built = parser(__doc__)
    built.add_argument("policies", nargs="*", help="policy folders whose steps include 12")
    built.add_argument("--rebuild", action="store_true", help="make the table anew")
    built.add_argument("--resume", action="store_true", help="go on with a table half made")
    built.add_argument("--half", type=int, default=HALF, help="prompts per half of a new table")
    built.add_argument("--table", type=Path, default=TABLE, help="where the table is")
    return built


if __name__ == "__main__":
    main()
