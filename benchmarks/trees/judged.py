"""Static schedules and searches on a table, and the table beside real runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Lines
from benchmarks.trees.table import KINDS, STEPS, Table
from benchmarks.trees.tree import tree_index
from benchmarks.trees.yardstick import COMPUTES, DIFFERENT_DB, TableBoard, Yardstick, percent
from ditcache_rl.bench import Board
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.schedules import Objective, Schedule
from ditcache_rl.search import METHODS, Calibration, Problem, Space, Trials

#: Candidates that a search may look at, per number of computes: of 45 to 252.
EVALUATIONS = (12, 24, 48)
#: Searches with different seeds, whose mean is reported.
_SEEDS = 5
#: Schedules of a table that are run for real; the table's numbers are exact to 0.016 dB.
_CHECKED = 20


def table_error(table: Table, board: Board, rng: np.random.Generator) -> float:
    """Run random schedules on random prompts, and return by how much the table is wrong at most."""
    worst = 0.0
    for half in (table.choose, table.held_out):
        places = rng.integers(len(half.cases), size=_CHECKED // 2)
        indices = rng.integers(len(table.schedules), size=_CHECKED // 2)
        cases = [half.cases[place] for place in places]
        real = board.score(cases, [Schedule(table.schedules[index][:, None]) for index in indices])
        worst = max(worst, float(np.abs(real.psnr_db - half.psnr_db[places, indices]).max()))
    return worst


def static_and_oracle(
    table: Table, figures: dict[str, float], rng: np.random.Generator
) -> dict[str, Any]:
    """Compare static schedule and oracle for every number of computes."""
    tag = "" if table.kind == next(iter(KINDS)) else f"{table.kind}_"
    lines = []
    for computes in COMPUTES:
        yard = Yardstick(table, computes)
        room = yard.headroom()
        gaps = yard.oracle - yard.static
        bound = Yardstick(table, computes, ends=True)
        figures[f"oracle_minus_static_{tag}db_{percent(computes)}"] = room.mean
        lines.append(
            {
                "budget": computes,
                "schedules": len(yard.index),
                "schedule": list(yard.schedule.path),
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
    return {"prompts": [len(table.choose.cases), len(table.held_out.cases)], "static": lines}


def searches(table: Table, board: Board) -> Lines:
    """Run every search on the table itself, with few candidates and with many."""
    space = Space(STEPS, 1, between=(KINDS[table.kind],))
    calibration = Calibration(board, table.choose.cases)
    scorer = TableBoard(table, board.sigmas())
    lines: Lines = []
    for name, method in METHODS.items():
        if name == "fitted":
            continue  # a table has no forecasts but Newton's
        for evaluations in EVALUATIONS:
            found: dict[int, list[int]] = {computes: [] for computes in COMPUTES}
            for seed in range(_SEEDS):
                trials = Trials(scorer, table.choose.cases, Objective(1.0, 0.0), space=space)
                problem = Problem(
                    trials, COMPUTES, evaluations, np.random.default_rng(seed), calibration
                )
                for computes, scored in method(problem).items():
                    found[computes].append(int(tree_index(scored.schedule.modes[:, 0])))
            for computes, index in found.items():
                yard = Yardstick(table, computes)
                lines.append(
                    {
                        "method": name,
                        "evaluations": evaluations,
                        "budget": computes,
                        "choose_minus_best_db": float(
                            table.choose.psnr_db[:, index].mean() - yard.chosen_db
                        ),
                        "held_out_minus_static_db": float(
                            table.held_out.psnr_db[:, index].mean() - yard.static.mean()
                        ),
                    }
                )
    return lines
