"""Measure what each part of PPO's set-up is worth, where there is something to learn.

From searched schedules the network stays where it starts (`docs/learning.md`), so that every
ablation would read zero. Here it starts from schedules that leave several decibels to gain: evenly
spaced computed steps with reuse between, at 12 steps. What is reported is the mean PSNR that the
greedy network gains over them on select prompts, after the same number of episodes, at each
budget; and what the episodes gained while it learned. Interquartile means over seeds and budgets
with 95 % intervals from a bootstrap stratified by budget (rliable, arXiv 2108.13264).

Every training leaves a piece, and `--resume` goes on after the last one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.harness import ROOT, Benchmark, Kept, console, parser, writable
from benchmarks.learned.ablated import (
    COMPUTES,
    VARIANTS,
    Training,
    forecasts_gain,
    tasks_of,
    train,
    weak_scenario,
)
from benchmarks.learned.curves import draw, percent, sheet_of, summary
from ditcache_rl.bench import cases_of
from ditcache_rl.config import load_env
from ditcache_rl.pipelines import open_configured

ENV = ROOT / "benchmarks" / "shapes-12.toml"
PIECES = ROOT / "runs" / "ablation"
#: Train prompts that are seen, and select prompts that the networks are judged on.
SEEN, JUDGED = 32, 16


def main(arguments: list[str] | None = None) -> None:
    """Train every variant from every seed, and report."""
    options = _options().parse_args(arguments)
    run = Benchmark(arguments)
    if options.quick:
        options.episodes, options.seeds = 32, 2
    kept = Kept(options.pieces / str(options.episodes), options.episodes, resume=options.resume)
    config = load_env(ENV)
    pipe = open_configured(config.pipeline)
    pipe.set_progress_bar_config(disable=True)
    scenario = weak_scenario(config, pipe)
    seen, judged = cases_of(config, "train")[:SEEN], cases_of(config, "select")[:JUDGED]
    console.print("references and what the schedules earn")
    scenario.baseline([task for cases in (seen, judged) for task in tasks_of(cases)])

    seeds = range(1, options.seeds + 1)
    found: dict[str, list[Training]] = {name: [] for name in VARIANTS}
    jobs = [(seed, name) for seed in seeds for name in VARIANTS]
    for seed, name in track(jobs, "trainings", console=console):
        make = partial(train, scenario, seen, judged, VARIANTS[name], options.episodes, seed=seed)
        found[name].append(Training(*kept.once(f"{name}-{seed}", make)))

    figures, details = summary(found, np.random.default_rng(0))
    for computes, gain in zip(COMPUTES, forecasts_gain(scenario, judged), strict=True):
        figures[f"even_forecasts_gain_db_{percent(computes)}"] = gain
    console.print(sheet_of(figures))
    if options.png is not None:
        draw(details, options.episodes, options.png)
    about = {"episodes": options.episodes, "seeds": options.seeds, "variants": details}
    run.finish(figures, about, options.json, title="gain over the schedules, select prompts")


def _options() -> Any:
    built = parser(__doc__, quick="32 episodes, 2 seeds")
    built.add_argument("--seeds", type=int, default=5, help="trainings of every variant")
    built.add_argument("--episodes", type=int, default=384, help="of each of them")
    built.add_argument("--resume", action="store_true", help="go on after the last training")
    built.add_argument("--pieces", type=Path, default=PIECES, help="folder of the trainings")
    built.add_argument("--png", type=writable, metavar="FILE", help="write the curves to this file")
    return built


if __name__ == "__main__":
    main()
