"""`ditcache-rl study`: look for settings of PPO, one training after the other."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace

from ditcache_rl.cli.options import (
    RUNS,
    add_device,
    add_display,
    add_env,
    add_resume,
    add_seed,
    command_line,
    on_device,
    run_folder,
)
from ditcache_rl.config import check_within, find_policy, load_env
from ditcache_rl.types import MOST_COUNT

HELP = "look for settings of PPO"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    add_env(parser)
    parser.add_argument(
        "--trials", type=int, default=20, help="settings to try, the environment's first"
    )
    parser.add_argument(
        "--episodes", type=int, help="episodes of each, in place of the environment's"
    )
    parser.add_argument(
        "--policy", help="policy whose schedules agents start from (default: evenly spaced ones)"
    )
    add_seed(parser, "what is tried, actions and weights")
    add_device(parser)
    add_resume(parser)
    add_display(parser)


def run(options: Namespace) -> int:
    """Study, and print what was found."""
    config = on_device(load_env(options.env), options.device)
    own = config.agent
    if options.episodes is not None:
        check_within("--episodes", options.episodes, 1, MOST_COUNT)
        config = replace(config, agent=replace(config.agent, episodes=options.episodes))
    policy = None if options.policy is None else find_policy(options.policy)
    folder = run_folder(RUNS / "study" / config.name, options.resume)

    from ditcache_rl.cli.progress import shown_progress
    from ditcache_rl.cli.tables import agent_block, render_study, wide_console
    from ditcache_rl.files import check_writable
    from ditcache_rl.rl.study import StudyOptions, study

    check_writable(folder, folders=True)
    settings = StudyOptions(folder, options.trials, options.seed, policy)
    bar = shown_progress("study", options)
    bar.note(f"study {folder / 'study.db'}; curves: tensorboard --logdir {folder}")
    try:
        tried = study(config, settings, progress=bar)
    except KeyboardInterrupt:
        resume = [] if options.resume == str(folder) else ["--resume", str(folder)]
        again = command_line("study", *options.typed, *resume)
        print(f"\ninterrupted; go on with: {again}", file=sys.stderr)
        return 130
    wide_console().print(render_study(tried))
    best = tried[0]
    found = "the environment's own are the best" if best.number == 0 else f"trial {best.number}"
    agent = replace(best.agent, episodes=own.episodes)
    print(f"# {found}; put this in place of [agent] of {config.path}\n{agent_block(agent)}")
    return 0
