"""Measure what learning gains over fixed rules, over closed-form forecasts, and over a schedule.

Four questions, on test prompts that nothing was chosen on, in one process:

- Does the network decide better than the schedule that it starts from? (`paired_gain_db_B`, and
  over several seeds of PPO: `seeds_above_static_count`)
- Do learned forecasts beat the best schedule whose forecasts have Newton's coefficients?
  (`forecast_gain_db_B`; that schedule was searched on train prompts by climbing on final images)
- Do schedules beat rules that decide step by step? (`search_over_heuristics_db_2x`: at a half, a
  third and a fifth of the steps computed; thresholds are chosen on select prompts)
- Does a policy keep what it promises, and what does a floor cost? (`promise_error_share`,
  `floor_kept_share`; `floor_time_saved_share` is over the closed-form schedule that keeps it)

The statistics over seeds are those of rliable (arXiv 2108.13264): interquartile mean and
probability of improvement, with intervals from a bootstrap stratified by budget.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, Benchmark, console, parser
from benchmarks.learned.gains import budget_gains
from benchmarks.learned.promises import floor, promises
from benchmarks.learned.rules import over_rules
from benchmarks.learned.seeds import seeds_above
from ditcache_rl.bench import Board, cases_of, named_computes
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.pipelines import open_configured
from ditcache_rl.policy import load_policy

#: Prompts that thresholds are chosen on and networks of several seeds compared on.
FEW = 32


def main(arguments: list[str] | None = None) -> None:
    """Measure all of it, and report."""
    options = _options().parse_args(arguments)
    run = Benchmark(arguments)
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
    counts = named_computes(config, board.steps)
    details = {
        "budgets": budget_gains(board, policy, counts, test, figures, rng),
        "rules": over_rules(board, policy, (choose[:FEW], test), figures),
        "floor": floor(board, policy, counts, (choose, test), figures),
        "promises": promises(config, board, policy, counts, test[: options.timed], figures),
        "seeds": seeds_above(config, board, policy, counts, choose[:FEW], options, figures, rng),
    }
    figures["train_default_s"] = 60 * policy.metrics["train_minutes"]
    figures["train_default_images"] = policy.cost.images_in(figures["train_default_s"])
    run.finish(figures, details, options.json, title=f"{policy.manifest.env_id}, test prompts")


def _options() -> Any:
    built = parser(__doc__, quick="16 test prompts, 8 to choose on, 2 seeds, 64 episodes")
    built.add_argument("--policy", default="shapes-ppo", help="policy folder, or name")
    built.add_argument("--seeds", type=int, default=5, help="trainings of the network")
    built.add_argument("--episodes", type=int, default=256, help="of each of them")
    built.add_argument("--timed", type=int, default=24, help="prompts whose calls are timed")
    built.add_argument("--runs", type=Path, default=ROOT / "runs" / "learning", help="checkpoints")
    return built


if __name__ == "__main__":
    main()
