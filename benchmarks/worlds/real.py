"""Deadlines of real calls, on this machine, while real other work comes and goes."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Lines
from benchmarks.worlds.tenants import tenants
from ditcache_rl.bench import Board, Case
from ditcache_rl.control import Controller
from ditcache_rl.interval import mean_interval
from ditcache_rl.world import DeadlineController, Decide, Gauges, Moment, Pacer
from ditcache_rl.world.rules import ByDeadline


def real(
    board: Board, pacer: Pacer, static: ByDeadline, cases: list[Case], *, seed: int = 0
) -> tuple[dict[str, float], Lines]:
    """Draw every case under every contender, one after the other, each time with a deadline.

    Deadlines are drawn in units of what a computed step takes here while the tenants run, so that
    they are as tight as in training.
    """
    rng = np.random.default_rng(seed)
    board.prepare(cases)
    names = ["static by deadline", "pacer"]
    gauges = {name: Gauges() for name in names}
    quality: dict[str, list[float]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    limits: list[float] = []
    low, high = pacer.pacing.shortest_s, pacer.pacing.longest_s
    with tenants(2, seed):
        time.sleep(1.0)
        slowdown = _slowdown(board, pacer, cases[0])

        def scaled(moment: Moment) -> NDArray[np.bool_]:
            # Chosen for the unloaded machine; here it may compute as much in as many times as long.
            return static(moment._replace(given=moment.given / slowdown))

        contenders: dict[str, Decide] = dict(zip(names, (scaled, pacer.decide), strict=True))
        for turn, case in enumerate(cases):
            limit = float(rng.uniform(low, high)) * slowdown
            limits.append(limit)
            for name in names[:: 1 if turn % 2 else -1]:
                controller: Controller = DeadlineController(
                    pacer, limit, gauges=gauges[name], decide=contenders[name]
                )
                drawn = board.draw([case], controller)
                quality[name].append(float(board.judge(drawn.images, [case]).psnr_db[0]))
                seconds[name].append(drawn.seconds)
                assert drawn.log is not None, "it was drawn under a controller"
                gauges[name].judge(
                    drawn.log.modes,
                    in_time=drawn.seconds <= limit,
                    promised_share=pacer.pacing.promised_share,
                )
    kept = {name: np.array(seconds[name]) <= np.array(limits) for name in names}
    scores = {name: np.where(kept[name], quality[name], 0.0) for name in names}
    gain = mean_interval(scores["pacer"] - scores["static by deadline"])
    figures = {
        "real_kept_share": float(kept["pacer"].mean()),
        "real_over_static_db": gain.mean,
        "real_over_static_low_db": gain.low,
    }
    lines: Lines = [
        {
            "contender": name,
            "kept_share": round(float(kept[name].mean()), 3),
            "psnr_db": round(float(np.mean(np.array(quality[name])[kept[name]])), 2),
            "late_as_zero_db": round(float(scores[name].mean()), 2),
            "median_s": round(float(np.median(seconds[name])), 3),
            "n": len(cases),
            "slowdown": round(slowdown, 2),
        }
        for name in names
    ]
    return figures, lines


def _slowdown(board: Board, pacer: Pacer, case: Case) -> float:
    """Return the typical time of full compute now, over that of the unloaded machine."""
    took = [board.draw([case]).seconds for _ in range(5)]
    pacing = pacer.pacing
    alone = (pacing.before + pacing.after + board.steps) * pacing.compute_s
    # Half of the slowdown that is there: the machine is not always as busy as that.
    return max(1.0, float(np.min(took)) / alone)
