"""`ditcache-rl rollout`: film how a policy draws, beside its schedule and its reference."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ditcache_rl.cli.options import (
    RUNS,
    add_device,
    add_display,
    add_out,
    add_steps,
    on_device,
    run_folder,
)
from ditcache_rl.config import check_within, find_policy, load_env
from ditcache_rl.files import is_there
from ditcache_rl.types import MOST_STEPS

HELP = "film how a policy draws"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "policy",
        nargs="?",
        default="shapes-ppo",
        help="policy folder, name of a shipped one, or schedule file",
    )
    parser.add_argument("--env", default="shapes", help="environment whose test prompts are drawn")
    parser.add_argument("--prompts", type=int, default=2, help="test prompts to draw")
    parser.add_argument(
        "--budget", type=float, help="share of full compute (default: the environment's least)"
    )
    add_steps(parser, "the policy's first")
    add_device(parser)
    add_out(parser, "film, an .mp4 or a .gif", "runs/rollout/TIME/film.mp4")
    add_display(parser)


def run(options: Namespace) -> int:
    """Draw and film."""
    given = Path(options.policy)
    source = given if is_there(given) else find_policy(options.policy)
    config = on_device(load_env(options.env), options.device)
    texts = config.read_prompts("test")
    check_within("--prompts", options.prompts, 1, len(texts), whole=True)
    if options.steps is not None:
        check_within("--steps", options.steps, 1, MOST_STEPS)
    out = options.out or run_folder(RUNS / "rollout") / "film.mp4"

    from ditcache_rl.bench import Board, cases_of
    from ditcache_rl.cli.progress import shown_progress
    from ditcache_rl.control import AllCompute, Controller, NetworkController
    from ditcache_rl.files import check_writable
    from ditcache_rl.inference import PolicyController, Target
    from ditcache_rl.pipelines import open_matching
    from ditcache_rl.policy import load_policy, load_schedules
    from ditcache_rl.rl.film import Take, check_film, take, write_film

    check_film(out)
    check_writable(out)
    found = load_schedules(source) if source.is_file() else {"policy": load_policy(source)}
    policy = next(iter(found.values()))
    pipe = open_matching(config.pipeline, policy.manifest)
    board = Board.of(config, pipe, steps=options.steps or policy.steps[0])
    target = Target(budget=options.budget or min(config.targets.budgets))
    actors: dict[str, Controller] = {"reference": AllCompute()}
    for name, one in found.items():
        actor = PolicyController(one, target)
        if isinstance(actor.choose(board.sigmas()), NetworkController):
            actors["its schedule"] = PolicyController(one, target, adaptive=False)
            name = f"{name}, online"
        actors[name] = actor
    scenes: list[tuple[str, list[Take]]] = []
    with shown_progress("rollout", options) as bar:
        bar.expect(options.prompts * len(actors))
        for case in cases_of(config, "test")[: options.prompts]:
            takes: list[Take] = []
            for title, controller in actors.items():
                bar.say(f"{title}: {case.prompt}")
                takes.append(take(board, case, controller, title=title))
                bar.advance(1)
            scenes.append((case.prompt, takes))
        write_film(out, scenes)
    print(f"film: {out}")
    return 0
