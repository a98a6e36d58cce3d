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

import copy
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as Sheet

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `python benchmarks/headroom.py` finds its neighbours

from benchmarks._headroom import (  # noqa: E402
    BUDGETS,
    DIFFERENT_DB,
    TableBoard,
    Yardstick,
    percent,
    play,
    predictors,
    swept,
)
from benchmarks._report import Run, console, parser  # noqa: E402
from benchmarks._table import (  # noqa: E402
    HALF,
    KINDS,
    STEPS,
    Table,
    assemble,
    build,
    read_tables,
    table_board,
)
from ditcache_rl.bench import Board  # noqa: E402
from ditcache_rl.config import find_policy, load_env  # noqa: E402
from ditcache_rl.control import Controller, EasyCache, EveryK, FBCache, TeaCache  # noqa: E402
from ditcache_rl.inference import PolicyController, Target  # noqa: E402
from ditcache_rl.metrics import PSNR_CAP_DB, psnr_db  # noqa: E402
from ditcache_rl.pipelines import check_identity  # noqa: E402
from ditcache_rl.policy import load_policy  # noqa: E402
from ditcache_rl.search import METHODS, Calibration, Problem, Space, Trials, Weights, tree_index  # noqa: E402

TABLE = ROOT / "benchmarks" / "results" / "headroom-shapes-12.safetensors"
PIECES = ROOT / "runs" / "headroom"
#: From careful to greedy, dense enough that some threshold lies near every budget.
THRESHOLDS: dict[str, tuple[Callable[[float], Controller], tuple[float, ...]]] = {
    "teacache": (TeaCache, (0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.6, 2.4, 4.0)),
    "fbcache": (FBCache, (0.06, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3, 0.36, 0.45, 0.6, 0.8, 1.2)),
    "easycache": (EasyCache, (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.17, 0.22, 0.3, 0.4, 0.6, 1.0)),
}
#: Candidates that a search may look at, per budget: of 45 to 252.
EVALUATIONS = (12, 24, 48)
#: Searches with different seeds, whose mean is reported.
_SEEDS = 5
#: Schedules of a table that are run for real; the table's numbers are exact to 0.016 dB.
_CHECKED = 20
Rows = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> None:
    """Read or build the table, compare everything with it, and report."""
    options = _options().parse_args(arguments)
    run = Run(arguments)
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
    figures["table_error_db"] = max(_error(table, board, rng) for table in tables)
    for table in tables:
        details["tables"][table.kind] = _statics(table, figures, rng)
        details["tables"][table.kind]["searches"] = _searches(table, board)
        details["tables"][table.kind]["predictors"] = {
            str(budget): [one._asdict() for one in predictors(board, Yardstick(table, budget))]
            for budget in BUDGETS
        }
    contenders = [*_fewer_steps(board, first), *_heuristics(board, first)]
    for folder in options.policies:
        contenders += _policy(board, first, folder, figures, rng)
    for row in contenders:
        yardstick = Yardstick(first, row["budget"])
        psnr = np.array(row.pop("held_out"))
        gain, share = yardstick.gain(psnr, rng), yardstick.share(psnr, rng)
        row |= {
            "psnr_db": float(psnr.mean()),
            "p5_db": float(np.percentile(psnr, 5)),
            "minus_static_db": gain.mean,
            "ci95": [gain.low, gain.high],
            "headroom_share": share and share.value,
            "headroom_share_ci95": share and [share.low, share.high],
        }
    details["contenders"] = contenders
    _show(details, first)
    run.finish(figures, details, options.json, title=f"shapes, {STEPS} steps, held-out prompts")


def _options() -> Any:
    built = parser(__doc__)
    built.add_argument("policies", nargs="*", help="policy folders whose steps include 12")
    built.add_argument("--rebuild", action="store_true", help="make the table anew")
    built.add_argument("--resume", action="store_true", help="go on with a table half made")
    built.add_argument("--half", type=int, default=HALF, help="prompts per half of a new table")
    built.add_argument("--table", type=Path, default=TABLE, help="where the table is")
    return built


def _error(table: Table, board: Board, rng: np.random.Generator) -> float:
    """Run random schedules on random prompts, and return by how much the table is wrong at most."""
    worst = 0.0
    for half in (table.choose, table.held_out):
        places = rng.integers(len(half.cases), size=_CHECKED // 2)
        indices = rng.integers(len(table.schedules), size=_CHECKED // 2)
        cases = [half.cases[place] for place in places]
        real = board.score(cases, [table.schedules[index][:, None] for index in indices])
        worst = max(worst, float(np.abs(real.psnr_db - half.psnr_db[places, indices]).max()))
    return worst


def _statics(table: Table, figures: dict[str, float], rng: np.random.Generator) -> dict[str, Any]:
    """Compare static schedule and oracle at every budget."""
    tag = "" if table.kind == next(iter(KINDS)) else f"{table.kind}_"
    rows = []
    for budget in BUDGETS:
        yard = Yardstick(table, budget)
        room = yard.headroom(rng)
        gaps = yard.oracle - yard.static
        bound = Yardstick(table, budget, ends=True)
        figures[f"oracle_minus_static_{tag}db_{percent(budget)}"] = room.mean
        rows.append(
            {
                "budget": budget,
                "schedules": len(yard.index),
                "schedule": np.flatnonzero(yard.schedule == 0).tolist(),
                "static_db": float(yard.static.mean()),
                "static_db_where_chosen": yard.chosen_db,
                "best_in_hindsight_db": float(
                    table.held_out.psnr_db[:, yard.index].mean(axis=0).max()
                ),
                "oracle_db": float(yard.oracle.mean()),
                "last_step_computed": {
                    "static_db": float(bound.static.mean()),
                    "oracle_db": float(bound.oracle.mean()),
                },
                "at_cap_share": float((yard.oracle >= PSNR_CAP_DB).mean()),
                "headroom_db": room.mean,
                "ci95": [room.low, room.high],
                "headroom_p95_db": float(np.percentile(gaps, 95)),
                "within_half_db_share": float((gaps <= DIFFERENT_DB).mean()),
            }
        )
    return {"prompts": [len(table.choose.cases), len(table.held_out.cases)], "static": rows}


def _searches(table: Table, board: Board) -> Rows:
    """Run every search on the table itself, with few candidates and with many."""
    space = Space(STEPS, 1, between=(KINDS[table.kind],))
    calibration = Calibration(board, table.choose.cases)
    rows: Rows = []
    for name, method in METHODS.items():
        if name == "fitted":
            continue  # a table has no forecasts but Newton's
        for evaluations in EVALUATIONS:
            found: dict[int, list[int]] = {budget: [] for budget in BUDGETS}
            for seed in range(_SEEDS):
                trials = Trials(
                    TableBoard(table), table.choose.cases, Weights(1.0, 0.0), space=space
                )
                problem = Problem(
                    trials, BUDGETS, evaluations, np.random.default_rng(seed), calibration
                )
                for budget, entry in method(problem).items():
                    found[budget].append(int(tree_index(space.modes(entry.row)[:, 0])))
            for budget, index in found.items():
                yard = Yardstick(table, budget)
                rows.append(
                    {
                        "method": name,
                        "evaluations": evaluations,
                        "budget": budget,
                        "choose_minus_best_db": float(
                            table.choose.psnr_db[:, index].mean() - yard.chosen_db
                        ),
                        "held_out_minus_static_db": float(
                            table.held_out.psnr_db[:, index].mean() - yard.static.mean()
                        ),
                    }
                )
    return rows


def _fewer_steps(board: Board, table: Table) -> Rows:
    """Draw with as many steps as the budget computes."""
    cases = table.held_out.cases
    rows: Rows = []
    for budget in BUDGETS:
        short = Board(board.pipe, budget, sites=1, call=board.call, rows=board.rows)
        images = [short.draw(cases[i : i + board.rows]) for i in range(0, len(cases), board.rows)]
        psnr = np.concatenate(
            [
                psnr_db(part, board.references(cases[i * board.rows :][: len(part)]))
                for i, part in enumerate(images)
            ]
        )
        rows.append(
            {"method": "fewer steps", "budget": budget, "computes": budget, "held_out": psnr}
        )
    return rows


def _heuristics(board: Board, table: Table) -> Rows:
    """Sweep every rule to every budget."""
    halves = table.choose.cases, table.held_out.cases
    rules: dict[str, tuple[Callable[[float], Controller], Sequence[float]]] = {
        "every-k reuse": (lambda k: EveryK(int(k)), (2, 3, 4, 6)),
        "every-k forecast": (lambda k: EveryK(int(k), order=1), (2, 3, 4, 6)),
        **THRESHOLDS,
    }
    rows: Rows = []
    for name, (rule, thresholds) in rules.items():
        console.print(f"sweeping {name}")
        for budget, (chosen, played) in swept(board, rule, thresholds, halves, BUDGETS).items():
            rows.append(
                {
                    "method": name,
                    "setting": chosen,
                    "budget": budget,
                    "computes": float(played.computes.mean()),
                    "held_out": played.psnr_db,
                }
            )
    return rows


def _policy(
    board: Board, table: Table, folder: str, figures: dict[str, float], rng: np.random.Generator
) -> Rows:
    """Play a policy at every budget; the figures are those of the last policy given."""
    policy = load_policy(find_policy(folder))
    check_identity(policy.manifest.model, policy.manifest.scheduler, board.pipe)
    board = copy.copy(board)
    board.blocks = policy.manifest.blocks  # the table's forecasts are of what the blocks add
    rows: Rows = []
    for budget in BUDGETS:
        controller = PolicyController(policy, Target(budget=budget / STEPS), adaptive=True)
        played = play(board, controller, table.held_out.cases)
        yard = Yardstick(table, budget)
        share = yard.share(played.psnr_db, rng)
        figures[f"policy_minus_static_db_{percent(budget)}"] = float(
            (played.psnr_db - yard.static).mean()
        )
        if share is not None:
            figures[f"headroom_share_{percent(budget)}"] = share.value
            figures[f"headroom_share_low_{percent(budget)}"] = share.low
        rows.append(
            {
                "method": f"policy {Path(folder).name}",
                "budget": budget,
                "computes": float(played.computes.mean()),
                "held_out": played.psnr_db,
            }
        )
    return rows


def _show(details: dict[str, Any], first: Table) -> None:
    """Print the tables."""
    for kind, found in details["tables"].items():
        console.print(_static_sheet(kind, found))
        console.print(_search_sheet(kind, found["searches"]))
        console.print(_predictor_sheet(kind, found["predictors"]))
    console.print(_contender_sheet(first.kind, details["contenders"]))


def _sheet(title: str, *columns: str) -> Sheet:
    sheet = Sheet(title=title)
    for column in columns:
        sheet.add_column(column, justify="right")
    return sheet


def _static_sheet(kind: str, found: dict[str, Any]) -> Sheet:
    columns = ("computed", "static", "oracle", "headroom dB", "95 %", "p95", "within .5 dB")
    sheet = _sheet(f"{kind}: every schedule, prompts {found['prompts']}", *columns)
    for row in found["static"]:
        sheet.add_row(
            f"{row['budget']} of {STEPS}",
            f"{row['static_db']:.2f}",
            f"{row['oracle_db']:.2f}",
            f"{row['headroom_db']:.2f}",
            "{:.2f} .. {:.2f}".format(*row["ci95"]),
            f"{row['headroom_p95_db']:.2f}",
            f"{row['within_half_db_share']:.0%}",
        )
    return sheet


def _search_sheet(kind: str, rows: Rows) -> Sheet:
    title = f"{kind}: dB of searches against the best static schedule, held out"
    sheet = _sheet(title, "method", "candidates", *(f"{b} of {STEPS}" for b in BUDGETS))
    cells: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        key = row["method"], row["evaluations"]
        cells.setdefault(key, []).append(f"{row['held_out_minus_static_db']:+.2f}")
    for (name, count), shown in cells.items():
        sheet.add_row(name, str(count), *shown)
    return sheet


def _predictor_sheet(kind: str, predictors: dict[str, Rows]) -> Sheet:
    columns = ("computed", "feature", "step", "rho choose", "rho held out", "AUC")
    sheet = _sheet(f"{kind}: what tells that a prompt has a better schedule", *columns)
    for budget, ranked in predictors.items():
        for one in ranked[:3]:
            sheet.add_row(
                budget,
                one["feature"],
                str(one["step"]),
                f"{one['spearman_choose']:+.2f}",
                f"{one['spearman_held_out']:+.2f}",
                f"{one['auc_held_out']:.2f}",
            )
    return sheet


def _contender_sheet(kind: str, rows: Rows) -> Sheet:
    columns = ("method", "budget", "computed", "PSNR dB", "minus static", "95 %", "share")
    sheet = _sheet(f"contenders against the best static {kind} schedule, held out", *columns)
    for row in rows:
        sheet.add_row(
            row["method"],
            str(row["budget"]),
            f"{row['computes']:.2f}",
            f"{row['psnr_db']:.2f}",
            f"{row['minus_static_db']:+.2f}",
            "{:+.2f} .. {:+.2f}".format(*row["ci95"]),
            "-" if row["headroom_share"] is None else f"{row['headroom_share']:+.2f}",
        )
    return sheet


if __name__ == "__main__":
    main()
