"""`ditcache-rl train`, or `train.py`: learn a policy, or bring one to other weights."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

from ditcache_rl.cli.options import (
    RUNS,
    add_device,
    add_display,
    add_env,
    add_out,
    add_resume,
    add_seed,
    command_line,
    on_device,
    run_folder,
)
from ditcache_rl.config import check_within, find_policy, load_env
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import MOST_COUNT

HELP = "learn a policy"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    add_env(parser)
    add_out(parser, "folder of the policy", "runs/ENV/TIME/policy")
    add_seed(parser, "search, actions and weights")
    parser.add_argument(
        "--episodes", type=int, help="episodes to learn in, in place of the environment's"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing policy")
    add_resume(parser)
    add_device(parser)
    parser.add_argument(
        "--track",
        metavar="NAME",
        help="show the curves in wandb or trackio too, beside TensorBoard",
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="time a few calls, print what training would take here, and train nothing",
    )
    add_display(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that draw beside this one, each with its own pipeline; 0 for none; by "
        "default one per GPU or core where there are several",
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="Ray cluster that the workers run on, one per GPU"
    )
    parser.add_argument(
        "--retarget",
        metavar="POLICY",
        help="keep the schedules of a policy and recalibrate it for this environment's weights",
    )


def run(options: Namespace) -> int:
    """Train, or recalibrate."""
    config = on_device(load_env(options.env), options.device)
    if options.episodes is not None:
        check_within("--episodes", options.episodes, 1, MOST_COUNT)
        config = replace(config, agent=replace(config.agent, episodes=options.episodes))
    check_within("--workers", options.workers or 0, 0, MOST_COUNT)
    old = None if options.retarget is None else find_policy(options.retarget)
    if old is not None and (options.workers or options.ray is not None):
        raise ConfigError(
            "expected --retarget without --workers and --ray, received both; it measures what "
            "calls cost on this machine, and draws nothing that workers could"
        )
    folder = run_folder(RUNS / config.name, options.resume)

    from rich.console import Console

    from ditcache_rl.cli.progress import shown_progress
    from ditcache_rl.cli.tables import (
        render_deadlines,
        render_estimate,
        render_policy,
        time_taken,
    )
    from ditcache_rl.files import check_writable
    from ditcache_rl.policy import load_policy
    from ditcache_rl.rl.agents import hyperparameters
    from ditcache_rl.rl.estimate import estimate
    from ditcache_rl.rl.retarget import retarget_folder
    from ditcache_rl.rl.tracking import Tracker
    from ditcache_rl.rl.train import TrainOptions, train

    policy = None if old is None else load_policy(old)
    bar = shown_progress("train", options)
    if options.estimate:
        found = estimate(
            config,
            workers=options.workers,
            address=options.ray,
            retargets=policy,
            progress=bar,
        )
        print(found.headline)
        Console().print(render_estimate(found))
        print(*found.advice(), sep="\n")
        return 0
    out = options.out or folder / "policy"
    command = command_line("train", *options.typed)
    settings = TrainOptions(
        folder, out, options.force, options.seed, command, options.workers, options.ray
    )
    check_writable(folder, out, folders=True)
    settings.check()
    if policy is not None:
        retarget_folder(policy, out, config, force=options.force)
        print(f"policy: {out}\n{_measuring(out, options)}")
        return 0
    trackers = []
    if options.track is not None:
        facts = {"env": config.id, **hyperparameters(config.agent, options.seed)}
        trackers.append(Tracker(options.track, run=folder.name, facts=facts))
    bar.note(f"run folder {folder}; curves: tensorboard --logdir {folder}")
    try:
        train(config, settings, bar=bar, callbacks=trackers)
    except KeyboardInterrupt:
        # What is typed last counts.
        resume = [] if options.resume == str(folder) else ["--resume", str(folder)]
        again = command_line("train", *options.typed, *resume)
        print(
            f"\ninterrupted; what is finished is kept in {folder}. Go on with: {again}",
            file=sys.stderr,
        )
        return 130
    finally:
        for tracker in trackers:
            tracker.close()
    trained = load_policy(out)
    Console().print(render_policy(trained))
    if "deadlines" in trained.metrics:
        Console().print(render_deadlines(trained))
    print(time_taken(trained))
    print(f"policy: {out}; its card: {out / 'README.md'}\n{_measuring(out, options)}")
    return 0


def _measuring(out: Path, options: Namespace) -> str:
    """Say how the policy is measured."""
    return f"measure it: {command_line('eval', str(out), '--env', options.env)}"
