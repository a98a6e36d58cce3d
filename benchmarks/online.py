"""Learning in service: a bandit over the schedules of a policy, and predictors of the next access.

Images and times of every schedule on 64 test prompts are measured once (`--table` keeps them, and
reads them again); traces of requests are replayed from that table, so that they are deterministic.
A steady trace has requests of 28 steps only; in a changing one those of 50 steps come to be the
rule. A fixed schedule is one share of compute for all requests; the best one is the fastest that
keeps the floor as often as promised over the whole trace, which only hindsight knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import ROOT, Benchmark, console, parser
from benchmarks.traces.guesses import hit_rates
from benchmarks.traces.served import (
    Kind,
    Served,
    fixed,
    measure,
    read_table,
    replay,
    trace,
    write_table,
)
from ditcache_rl.serve import Bandit

TABLE = ROOT / "runs" / "bench" / "online-table.json"
FLOOR_DB, KEEP, AUDIT = 38.0, 0.95, 0.1
#: Step counts of the requests.
STEPS = (28, 50)
#: Requests in which the bandit may learn.
LEARN = 200
#: Requests of a trace.
LENGTH = 1000
SEEDS = range(10)


def main() -> None:
    """Measure or read the table, replay, report."""
    options = parser(__doc__)
    options.add_argument("--env", default="shapes", help="environment")
    options.add_argument("--policy", default="shapes-ppo", help="policy folder, or name")
    options.add_argument("--table", type=Path, default=TABLE)
    given = options.parse_args()
    run = Benchmark()
    torch.set_num_threads(1)
    if given.table.exists():
        kinds = read_table(given.table, given.policy, FLOOR_DB)
    else:
        console.print(f"measuring the table; about six minutes, kept in {given.table}")
        kinds = measure(given.env, given.policy, FLOOR_DB, STEPS)
        write_table(kinds, given.table)
    steady, changing = judge(kinds, changes=False), judge(kinds, changes=True)
    rates = {
        share: {
            name: float(np.mean([hit_rates(40, seed, share)[name] for seed in range(2)]))
            for name in ("farthest", "counted", "regressed", "belady")
        }
        for share in (0.25, 0.5, 0.75)
    }
    half = rates[0.5]
    figures = {
        **{f"steady_{name}": value for name, value in steady.items()},
        **{f"changing_{name}": value for name, value in changing.items()},
        **{f"hit_{name}_share": value for name, value in half.items()},
        "best_predictor_gain_share": max(half["counted"], half["regressed"]) - half["farthest"],
        "ceiling_gain_share": half["belady"] - half["farthest"],
    }
    details: dict[str, Any] = {
        "floor_db": FLOOR_DB,
        "keep": KEEP,
        "audit": AUDIT,
        "kinds": [
            {
                "steps": kind.steps,
                "budgets": [arm.schedule.computes for arm in kind.arms],
                "mean_db": kind.psnr_db.mean(axis=1).tolist(),
                "p5_db": np.percentile(kind.psnr_db, 5, axis=1).tolist(),
                "seconds": np.median(kind.seconds, axis=1).tolist(),
            }
            for kind in kinds
        ],
        "hit_rates_by_capacity": rates,
    }
    run.finish(figures, details, given.json, title="online")


def judge(kinds: list[Kind], *, changes: bool) -> dict[str, float]:
    """Compare the bandit with the best fixed schedule, as means over seeds."""
    shares = ([0.9, 0.1], [0.1, 0.9]) if changes else ([1.0, 0.0], [1.0, 0.0])
    lines = []
    for seed in SEEDS:
        requests = trace(kinds, shares[0], LENGTH // 2, seed)
        requests += trace(kinds, shares[1], LENGTH // 2, 1000 + seed)
        bandit = Bandit(min_psnr=FLOOR_DB, keep=KEEP, audit=AUDIT, seed=seed)
        served = replay(kinds, requests, bandit, seed)
        lines.append(_figures(kinds, requests, served, all_requests=changes))
    return {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}


def _figures(
    kinds: list[Kind], requests: list[tuple[int, int]], served: Served, *, all_requests: bool
) -> dict[str, float]:
    """Judge one replay; on a changing trace all requests count, else those after learning."""
    first = 0 if all_requests else LEARN
    choices = fixed(kinds, requests[first:], FLOOR_DB, KEEP)
    best_s = min(seconds for seconds, kept in choices.values() if kept >= KEEP)
    seconds, audit = served.seconds[first:], served.audit_s[first:]
    chosen = served.arm[first:] < [len(kinds[kind].arms) for kind, _ in requests[first:]]
    audited = served.audited[first:] & chosen
    return {
        "bandit_over_best_x": float(seconds.mean() / best_s),
        "bandit_with_audits_over_best_x": float((seconds + audit).mean() / best_s),
        "floor_kept_served_share": float((served.psnr_db[first:] >= FLOOR_DB).mean()),
        "floor_kept_audited_share": float((served.psnr_db[first:][audited] >= FLOOR_DB).mean()),
        "full_compute_share": float(1 - chosen.mean()),
    }


if __name__ == "__main__":
    main()
