"""Measure what learning gains over fixed rules, over closed-form forecasts, and over a schedule.

Four questions, on test prompts that nothing was chosen on, in one process:

- Does the network decide better than the schedule that it starts from? (`paired_gain_db_B`, and
  over several seeds of PPO: `seeds_above_static_count`)
- Do learned forecasts beat the best schedule whose forecasts have Newton's weights?
  (`forecast_gain_db_B`; that schedule was searched on train prompts by climbing on final images)
- Do schedules beat rules that decide step by step? (`search_over_heuristics_db_2x`: at a half, a
  third and a fifth of the steps computed; thresholds are chosen on select prompts)
- Does a policy keep what it promises, and what does a floor cost? (`promise_error_share`,
  `floor_kept_share`; `floor_time_saved_share` is over the closed-form schedule that keeps it)

The statistics over seeds are those of rliable (arXiv 2108.13264): interquartile mean and
probability of improvement, with intervals from a bootstrap stratified by budget.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scipy.stats import bootstrap

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `python benchmarks/learning.py` finds its neighbours

from benchmarks._headroom import Played, play, swept  # noqa: E402
from benchmarks._report import Run, console, parser  # noqa: E402
from benchmarks._seeds import iqm, stratified  # noqa: E402
from ditcache_rl.bench import Board, Case, board_of, budgets_of, cases_of  # noqa: E402
from ditcache_rl.config import EnvConfig, find_policy, load_env  # noqa: E402
from ditcache_rl.control import EasyCache, EveryK, FBCache, TeaCache  # noqa: E402
from ditcache_rl.evaluate import Method, bootstrap_mean, evaluate  # noqa: E402
from ditcache_rl.inference import PolicyController, ScheduleController, Target  # noqa: E402
from ditcache_rl.metrics import PSNR_CAP_DB  # noqa: E402
from ditcache_rl.pipelines import open_configured  # noqa: E402
from ditcache_rl.policy import Policy, load_policy, load_schedules  # noqa: E402
from ditcache_rl.rl import Setting  # noqa: E402
from ditcache_rl.rl.learn import learn  # noqa: E402
from ditcache_rl.schedules import CostModel  # noqa: E402
from ditcache_rl.types import Floats  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
#: Made by `ditcache-rl search shapes --method polish`; see `docs/learning.md`.
CLOSED_FORM = RESULTS / "closed-form-shapes.json"
FLOOR_DB = 35.0
#: Speed-ups in computed steps, and the steps of 28 that they leave.
SPEEDUPS = {2: 14, 3: 9, 5: 5}
#: Prompts that thresholds are chosen on and networks of several seeds compared on; train prompts
#: that these see.
FEW, SEEN = 32, 128
#: From careful to greedy, dense enough that some threshold lies near every speed-up.
RULES: dict[str, tuple[Any, Sequence[float]]] = {
    "every-k, order 1": (lambda k: EveryK(int(k), order=1), (2, 3, 4, 5, 6)),
    "teacache": (TeaCache, (0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.8)),
    "fbcache": (FBCache, (0.06, 0.09, 0.12, 0.16, 0.2, 0.28, 0.4)),
    "easycache": (EasyCache, (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4)),
}
_RESAMPLES = 9999
Rows = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> None:
    """Measure all of it, and report."""
    options = _options().parse_args(arguments)
    run = Run(arguments)
    config = load_env("shapes")
    policy = load_policy(find_policy(options.policy))
    pipe = open_configured(config.pipeline)
    pipe.set_progress_bar_config(disable=True)
    board = Board.of(config, pipe, steps=config.steps[0])
    choose, test = cases_of(config, "select"), cases_of(config, "test")
    if options.quick:
        choose, test = choose[:8], test[:16]
        options.seeds, options.episodes = 2, 64
    console.print("references")
    board.prepare([*choose, *test])

    figures: dict[str, float] = {}
    rng = np.random.default_rng(0)
    budgets = budgets_of(config, board.steps)
    details = {
        "budgets": _budgets(board, policy, budgets, test, figures, rng),
        "rules": _rules(board, policy, (choose[:FEW], test), figures, rng),
        "floor": _floor(board, policy, budgets, (choose, test), figures),
        "promises": _promises(config, board, policy, budgets, test[: options.timed], figures),
        "seeds": _seeds(config, board, policy, budgets, choose[:FEW], options, figures, rng),
    }
    figures["train_default_s"] = 60 * policy.metrics["train_minutes"]
    run.finish(figures, details, options.json, title=f"{policy.manifest.env_id}, test prompts")


def _options() -> Any:
    built = parser(__doc__, quick="16 test prompts, 8 to choose on, 2 seeds, 64 episodes")
    built.add_argument("--policy", default="shapes-ppo", help="policy folder, or name")
    built.add_argument("--seeds", type=int, default=5, help="trainings of the network")
    built.add_argument("--episodes", type=int, default=256, help="of each of them")
    built.add_argument("--timed", type=int, default=24, help="prompts whose calls are timed")
    built.add_argument("--runs", type=Path, default=ROOT / "runs" / "learning", help="checkpoints")
    return built


def _budgets(
    board: Board,
    policy: Policy,
    budgets: Sequence[int],
    test: Sequence[Case],
    figures: dict[str, float],
    rng: np.random.Generator,
) -> Rows:
    """Compare network, schedule, that for floors and the best closed-form one at every budget."""
    closed, rows = load_schedules(CLOSED_FORM), []
    careful = replace(policy, plans={**policy.plans, **policy.safe})
    for budget in track(budgets, "budgets", console=console):
        wish, tag = Target(budget=budget / board.steps), round(100 * budget / board.steps)
        network, static, safe, newton = (
            play(board, controller, test)
            for controller in (
                PolicyController(policy, wish, adaptive=True),
                PolicyController(policy, wish, adaptive=False),
                PolicyController(careful, wish, adaptive=False),
                ScheduleController(closed, wish),
            )
        )
        gain = bootstrap_mean(network.psnr_db - static.psnr_db, rng)
        learned, for_floors = (
            bootstrap_mean(ours.psnr_db - newton.psnr_db, rng) for ours in (static, safe)
        )
        tails = [_p5_gain(ours, newton, rng) for ours in (static, safe)]
        figures |= {
            f"paired_gain_db_{tag}": gain.mean,
            f"paired_gain_low_db_{tag}": gain.low,
            f"p5_gain_db_{tag}": _p5(network) - _p5(static),
            f"forecast_gain_db_{tag}": learned.mean,
            f"forecast_gain_low_db_{tag}": learned.low,
            f"forecast_p5_gain_db_{tag}": tails[0]["value"],
            f"safe_gain_db_{tag}": for_floors.mean,
            f"safe_gain_low_db_{tag}": for_floors.low,
            f"safe_p5_gain_db_{tag}": tails[1]["value"],
        }
        rows.append(
            {
                "budget": budget,
                "n": len(test),
                "network_db": float(network.psnr_db.mean()),
                "static_db": float(static.psnr_db.mean()),
                "safe_db": float(safe.psnr_db.mean()),
                "closed_form_db": float(newton.psnr_db.mean()),
                "p5_db": [_p5(one) for one in (network, static, safe, newton)],
                "computes": [float(one.computes.mean()) for one in (network, static, safe, newton)],
                "network_minus_static": gain._asdict(),
                "static_minus_closed_form": learned._asdict(),
                "safe_minus_closed_form": for_floors._asdict(),
                "p5_static_minus_closed_form": tails[0],
                "p5_safe_minus_closed_form": tails[1],
            }
        )
    return rows


def _rules(
    board: Board,
    policy: Policy,
    halves: tuple[Sequence[Case], Sequence[Case]],
    figures: dict[str, float],
    rng: np.random.Generator,
) -> Rows:
    """Compare the policy's schedules with rules at equal mean steps computed."""
    rows: Rows = []
    inside = copy.copy(board)
    inside.blocks = None  # rules that look into the blocks cache what the blocks add
    for name, (rule, thresholds) in track(RULES.items(), "rules", console=console):
        where = inside if rule in (TeaCache, FBCache) else board
        found = swept(where, rule, thresholds, halves, list(SPEEDUPS.values()))
        rows += [
            {"rule": name, "budget": budget, "setting": setting, "played": played}
            for budget, (setting, played) in found.items()
        ]
    for speedup, budget in SPEEDUPS.items():
        wish = Target(budget=budget / board.steps)
        ours = play(board, PolicyController(policy, wish, adaptive=False), halves[1])
        there = [row for row in rows if row["budget"] == budget]
        for row in there:
            played: Played = row.pop("played")
            gain = bootstrap_mean(ours.psnr_db - played.psnr_db, rng)
            row |= {
                "psnr_db": float(played.psnr_db.mean()),
                "computes": float(played.computes.mean()),
                "ours_db": float(ours.psnr_db.mean()),
                "ours_minus_rule": gain._asdict(),
                "capped_share": [
                    float((one.psnr_db >= PSNR_CAP_DB).mean()) for one in (played, ours)
                ],
            }
        figures[f"search_over_heuristics_db_{speedup}x"] = min(
            row["ours_minus_rule"]["mean"] for row in there
        )
    return rows


def _floor(
    board: Board,
    policy: Policy,
    budgets: Sequence[int],
    halves: tuple[Sequence[Case], Sequence[Case]],
    figures: dict[str, float],
) -> dict[str, float]:
    """Ask for a floor; beside it the closed-form schedule that keeps it, and an oracle."""
    select, test = halves
    cost = CostModel.from_dict(policy.manifest.profile).for_steps(board.steps)
    chosen = play(board, PolicyController(policy, Target(min_psnr=FLOOR_DB)), test)
    spent = round(float(chosen.computes.mean()))
    closed = load_schedules(CLOSED_FORM)
    wishes = {budget: Target(budget=budget / board.steps) for budget in budgets}
    newton = next(
        (
            b
            for b in budgets
            if _p5(play(board, ScheduleController(closed, wishes[b]), select)) >= FLOOR_DB
        ),
        board.steps,
    )
    plays = [
        play(board, PolicyController(policy, wishes[b], adaptive=False), test)
        for b in budgets
        if b <= spent
    ]
    enough = np.stack([one.psnr_db >= FLOOR_DB for one in plays])
    cheapest = np.where(enough.any(axis=0), enough.argmax(axis=0), len(plays) - 1)
    figures |= {
        "floor_kept_share": float((chosen.psnr_db >= FLOOR_DB).mean()),
        "floor_time_saved_share": 1 - cost.with_computes(spent) / cost.with_computes(newton),
    }
    return {
        "floor_db": FLOOR_DB,
        "computes": spent,
        "closed_form_computes": newton,
        "oracle_computes": float(np.array([one.computes.mean() for one in plays])[cheapest].mean()),
        "oracle_kept_share": float(enough.any(axis=0).mean()),
    }


def _promises(
    config: EnvConfig,
    board: Board,
    policy: Policy,
    budgets: Sequence[int],
    test: Sequence[Case],
    figures: dict[str, float],
) -> Rows:
    """Time calls against the plain pipeline, and compare with what the policy says."""
    cost = CostModel.from_dict(policy.manifest.profile).for_steps(board.steps)
    methods = [
        Method(
            "policy",
            "learned",
            f"{budget}/{board.steps}",
            PolicyController(policy, Target(budget=budget / board.steps)),
            sites=policy.manifest.sites,
            blocks=policy.manifest.blocks,
        )
        for budget in budgets
    ]
    found = evaluate(
        board.pipe,
        methods,
        [case.prompt for case in test],
        seeds=[case.seed for case in test],
        steps=board.steps,
        call=config.pipeline.call,
    )
    rows = [
        {
            "budget": budget,
            "promised_x": cost.reference_s / cost.with_computes(budget),
            "measured_x": float(np.median(found.seconds[0] / seconds)),
        }
        for budget, seconds in zip(budgets, found.seconds[1:], strict=True)
    ]
    errors = [abs(row["measured_x"] / row["promised_x"] - 1) for row in rows]
    figures["promise_error_share"] = max(errors)
    return rows


def _seeds(
    config: EnvConfig,
    board: Board,
    policy: Policy,
    budgets: Sequence[int],
    select: Sequence[Case],
    options: Any,
    figures: dict[str, float],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Train the network from several seeds, each from the policy's schedules."""
    config = replace(config, ppo=replace(config.ppo, episodes=options.episodes))
    cost = CostModel.from_dict(policy.manifest.profile).for_steps(board.steps)
    cases = cases_of(config, "train")[:SEEN]
    board.prepare(cases)
    curves, gains = [], []
    wishes = [Target(budget=budget / board.steps) for budget in budgets]
    static = [
        play(board, PolicyController(policy, wish, adaptive=False), select) for wish in wishes
    ]
    setting = Setting(config, board, cost, policy.plans[board.steps])
    for seed in track(range(1, options.seeds + 1), "seeds", console=console):
        curve: dict[int, float] = {}
        folder = options.runs / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        network = learn(setting, cases, folder, seed=seed, on_episodes=curve.__setitem__)
        trained = replace(policy, network=network)
        played = [
            play(board, PolicyController(trained, wish, adaptive=True), select) for wish in wishes
        ]
        curves.append(sorted(curve.items()))
        gains.append(
            [float((a.psnr_db - b.psnr_db).mean()) for a, b in zip(played, static, strict=True)]
        )
    table = np.array(gains)
    figures["seeds_above_static_count"] = int((table.mean(axis=1) > 0).sum())
    return {
        "gain_db": table.tolist(),
        "iqm_gain_db": stratified(table, iqm, rng),
        "probability_of_improvement": stratified(
            table, lambda x: float((x > 0).mean() + (x == 0).mean() / 2), rng
        ),
        "paired_gain_of_episodes": curves,
    }


def _p5(played: Played) -> float:
    return float(np.percentile(played.psnr_db, 5))


def _p5_gain(ours: Played, theirs: Played, rng: np.random.Generator) -> dict[str, float]:
    """Return the difference of 5th percentiles, with an interval from resampled prompts."""

    def gain(ours: Floats, theirs: Floats, axis: int) -> Floats:
        return np.asarray(np.percentile(ours, 5, axis=axis) - np.percentile(theirs, 5, axis=axis))

    pairs = ours.psnr_db, theirs.psnr_db
    low, high = bootstrap(
        pairs, gain, paired=True, method="percentile", n_resamples=_RESAMPLES, rng=rng
    ).confidence_interval
    return {"value": _p5(ours) - _p5(theirs), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
