"""What network and schedules of a policy gain over each other and over closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rich.progress import track
from scipy.stats import bootstrap

from benchmarks.harness import ROOT, Lines, console
from benchmarks.harness.play import Played, play
from ditcache_rl.bench import Board, Case
from ditcache_rl.inference import PolicyController, Target, open_policy
from ditcache_rl.interval import mean_interval
from ditcache_rl.policy import Policy
from ditcache_rl.types import Floats

RESULTS = ROOT / "benchmarks" / "results"
#: Made by `ditcache-rl search shapes --method polish`; see `docs/learning.md`.
CLOSED_FORM = RESULTS / "closed-form-shapes.json"
_RESAMPLES = 9999


def budget_gains(
    board: Board,
    policy: Policy,
    counts: Sequence[int],
    test: Sequence[Case],
    figures: dict[str, float],
    rng: np.random.Generator,
) -> Lines:
    """Compare network, schedule, that for floors and the best closed-form one at equal computes."""
    closed, lines = open_policy(CLOSED_FORM), []
    careful = replace(policy, tables={**policy.tables, **policy.safe})
    for computes in track(counts, "budgets", console=console):
        target, tag = Target(budget=computes / board.steps), round(100 * computes / board.steps)
        network, static, safe, newton = (
            play(board, controller, test)
            for controller in (
                PolicyController(policy, target, adaptive=True),
                PolicyController(policy, target, adaptive=False),
                PolicyController(careful, target, adaptive=False),
                PolicyController(closed, target),
            )
        )
        gain = mean_interval(network.psnr_db - static.psnr_db)
        learned, for_floors = (
            mean_interval(ours.psnr_db - newton.psnr_db) for ours in (static, safe)
        )
        tails = [p5_gain(ours, newton, rng) for ours in (static, safe)]
        figures |= {
            f"paired_gain_db_{tag}": gain.mean,
            f"paired_gain_low_db_{tag}": gain.low,
            f"p5_gain_db_{tag}": p5(network) - p5(static),
            f"forecast_gain_db_{tag}": learned.mean,
            f"forecast_gain_low_db_{tag}": learned.low,
            f"forecast_p5_gain_db_{tag}": tails[0]["value"],
            f"safe_gain_db_{tag}": for_floors.mean,
            f"safe_gain_low_db_{tag}": for_floors.low,
            f"safe_p5_gain_db_{tag}": tails[1]["value"],
        }
        lines.append(
            {
                "budget": computes,
                "n": len(test),
                "network_db": float(network.psnr_db.mean()),
                "static_db": float(static.psnr_db.mean()),
                "safe_db": float(safe.psnr_db.mean()),
                "closed_form_db": float(newton.psnr_db.mean()),
                "p5_db": [p5(one) for one in (network, static, safe, newton)],
                "computes": [float(one.computes.mean()) for one in (network, static, safe, newton)],
                "network_minus_static": gain._asdict(),
                "static_minus_closed_form": learned._asdict(),
                "safe_minus_closed_form": for_floors._asdict(),
                "p5_static_minus_closed_form": tails[0],
                "p5_safe_minus_closed_form": tails[1],
            }
        )
    return lines


def p5(played: Played) -> float:
    """Return the 5th percentile of PSNR."""
    return float(np.percentile(played.psnr_db, 5))


def p5_gain(ours: Played, theirs: Played, rng: np.random.Generator) -> dict[str, float]:
    """Return the difference of 5th percentiles, which is no mean: prompts are resampled."""

    def gain(ours: Floats, theirs: Floats, axis: int) -> Floats:
        return np.asarray(np.percentile(ours, 5, axis=axis) - np.percentile(theirs, 5, axis=axis))

    pairs = ours.psnr_db, theirs.psnr_db
    low, high = bootstrap(
        pairs, gain, paired=True, method="percentile", n_resamples=_RESAMPLES, rng=rng
    ).confidence_interval
    return {"value": p5(ours) - p5(theirs), "low": float(low), "high": float(high)}
