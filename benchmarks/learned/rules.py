"""What the schedules of a policy gain over rules that decide step by step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from rich.progress import track

from benchmarks.harness import Lines, console
from benchmarks.harness.play import Played, play, swept
from ditcache_rl.bench import Board, Case
from ditcache_rl.control import EasyCache, EveryK, FBCache, TeaCache
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.interval import mean_interval
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.policy import Policy

#: Speed-ups in computed steps, and the steps of 28 that they leave.
SPEEDUPS = {2: 14, 3: 9, 5: 5}
#: From careful to greedy, dense enough that some threshold lies near every speed-up.
RULES: dict[str, tuple[Any, Sequence[float]]] = {
    "every-k, order 1": (lambda k: EveryK(int(k), order=1), (2, 3, 4, 5, 6)),
    "teacache": (TeaCache, (0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.8)),
    "fbcache": (FBCache, (0.06, 0.09, 0.12, 0.16, 0.2, 0.28, 0.4)),
    "easycache": (EasyCache, (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4)),
}


def over_rules(
    board: Board,
    policy: Policy,
    halves: tuple[Sequence[Case], Sequence[Case]],
    figures: dict[str, float],
) -> Lines:
    """Compare the policy's schedules with rules at equal mean steps computed."""
    lines: Lines = []
    inside = copy.copy(board)
    inside.blocks = None  # rules that look into the blocks cache what the blocks add
    for name, (rule, thresholds) in track(RULES.items(), "rules", console=console):
        where = inside if rule in (TeaCache, FBCache) else board
        found = swept(where, rule, thresholds, halves, list(SPEEDUPS.values()))
        lines += [
            {"rule": name, "budget": computes, "setting": threshold, "played": played}
            for computes, (threshold, played) in found.items()
        ]
    for speedup, computes in SPEEDUPS.items():
        target = Target(budget=computes / board.steps)
        ours = play(board, PolicyController(policy, target, adaptive=False), halves[1])
        there = [line for line in lines if line["budget"] == computes]
        for line in there:
            played: Played = line.pop("played")
            gain = mean_interval(ours.psnr_db - played.psnr_db)
            line |= {
                "psnr_db": float(played.psnr_db.mean()),
                "computes": float(played.computes.mean()),
                "ours_db": float(ours.psnr_db.mean()),
                "ours_minus_rule": gain._asdict(),
                "capped_share": [
                    float((one.psnr_db >= PSNR_CAP_DB).mean()) for one in (played, ours)
                ],
            }
        figures[f"search_over_heuristics_db_{speedup}x"] = min(
            line["ours_minus_rule"]["mean"] for line in there
        )
    return lines
