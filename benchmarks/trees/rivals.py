"""Fewer steps, rules and policies, drawn for real and laid beside a table."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import Lines, console
from benchmarks.harness.play import play, swept
from benchmarks.trees.table import STEPS, Table
from benchmarks.trees.yardstick import COMPUTES, Yardstick, percent
from ditcache_rl.bench import Board
from ditcache_rl.config import find_policy
from ditcache_rl.control import Controller, EasyCache, EveryK, FBCache, TeaCache
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.pipelines import check_identity
from ditcache_rl.policy import load_policy

#: From careful to greedy, dense enough that some threshold lies near every number of computes.
THRESHOLDS: dict[str, tuple[Callable[[float], Controller], tuple[float, ...]]] = {
    "teacache": (TeaCache, (0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.6, 2.4, 4.0)),
    "fbcache": (FBCache, (0.06, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3, 0.36, 0.45, 0.6, 0.8, 1.2)),
    "easycache": (EasyCache, (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.17, 0.22, 0.3, 0.4, 0.6, 1.0)),
}


def fewer_steps(board: Board, table: Table) -> Lines:
    """Draw with as many steps as schedules compute."""
    cases = table.held_out.cases
    lines: Lines = []
    for computes in COMPUTES:
        short = Board(board.pipe, computes, sites=1, call=board.call, rows=board.rows)
        parts = [cases[i : i + board.rows] for i in range(0, len(cases), board.rows)]
        judged = [board.judge(short.draw(part).images, part) for part in parts]
        psnr = np.concatenate([quality.psnr_db for quality in judged])
        lines.append(
            {"method": "fewer steps", "budget": computes, "computes": computes, "held_out": psnr}
        )
    return lines


def heuristics(board: Board, table: Table) -> Lines:
    """Sweep every rule to every number of computes."""
    halves = table.choose.cases, table.held_out.cases
    rules: dict[str, tuple[Callable[[float], Controller], Sequence[float]]] = {
        "every-k reuse": (lambda k: EveryK(int(k)), (2, 3, 4, 6)),
        "every-k forecast": (lambda k: EveryK(int(k), order=1), (2, 3, 4, 6)),
        **THRESHOLDS,
    }
    lines: Lines = []
    for name, (rule, thresholds) in rules.items():
        console.print(f"sweeping {name}")
        for computes, (chosen, played) in swept(board, rule, thresholds, halves, COMPUTES).items():
            lines.append(
                {
                    "method": name,
                    "setting": chosen,
                    "budget": computes,
                    "computes": float(played.computes.mean()),
                    "held_out": played.psnr_db,
                }
            )
    return lines


def policy_plays(
    board: Board, table: Table, folder: str, figures: dict[str, float], rng: np.random.Generator
) -> Lines:
    """Play a policy with every number of computes; the figures are those of the last one given."""
    policy = load_policy(find_policy(folder))
    check_identity(policy.manifest, board.pipe)
    board = copy.copy(board)
    board.blocks = policy.manifest.blocks  # the table's forecasts are of what the blocks add
    lines: Lines = []
    for computes in COMPUTES:
        controller = PolicyController(policy, Target(budget=computes / STEPS), adaptive=True)
        played = play(board, controller, table.held_out.cases)
        yard = Yardstick(table, computes)
        share = yard.share(played.psnr_db, rng)
        figures[f"policy_minus_static_db_{percent(computes)}"] = float(
            (played.psnr_db - yard.static).mean()
        )
        if share is not None:
            figures[f"headroom_share_{percent(computes)}"] = share.value
            figures[f"headroom_share_low_{percent(computes)}"] = share.low
        lines.append(
            {
                "method": f"policy {Path(folder).name}",
                "budget": computes,
                "computes": float(played.computes.mean()),
                "held_out": played.psnr_db,
            }
        )
    return lines
