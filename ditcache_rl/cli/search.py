"""`ditcache-rl search`: search static schedules by one method or by all."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace

from ditcache_rl.cli.options import (
    RUNS,
    add_display,
    add_env,
    add_out,
    add_resume,
    add_seed,
    add_steps,
    command_line,
    run_folder,
)
from ditcache_rl.config import check_within, load_env
from ditcache_rl.types import MOST_STEPS

HELP = "search static schedules"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    add_env(parser)
    parser.add_argument(
        "--method",
        default="polish",
        metavar="NAME",
        help="uniform, table, dp, minimax, climb, anneal, nsga2, polish, fitted, or all",
    )
    parser.add_argument(
        "--budgets",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="shares of full compute, in place of the environment's",
    )
    parser.add_argument(
        "--evaluations", type=int, help="candidates per budget, in place of the environment's"
    )
    parser.add_argument(
        "--prompts", type=int, help="train prompts to score on, in place of the environment's"
    )
    add_steps(parser, "all of the environment's")
    add_seed(parser, "the search")
    add_out(parser, "schedule file", "runs/search/ENV/TIME/schedules.json")
    add_resume(parser)
    add_display(parser)


def run(options: Namespace) -> int:
    """Search, and print what was found."""
    config = load_env(options.env)
    if options.steps is not None:
        check_within("--steps", options.steps, 3, MOST_STEPS)
        config = replace(config, steps=[options.steps])
    folder = run_folder(RUNS / "search" / config.name, options.resume)

    from rich.console import Console

    from ditcache_rl.cli.progress import shown_progress
    from ditcache_rl.cli.tables import render_schedules
    from ditcache_rl.files import check_writable
    from ditcache_rl.machine import require
    from ditcache_rl.policy import load_schedules
    from ditcache_rl.search import METHODS
    from ditcache_rl.search.run import SearchOptions, search_schedules

    search = config.search
    settings = SearchOptions(
        run=folder,
        out=options.out or folder / "schedules.json",
        methods=[*METHODS] if options.method == "all" else [options.method],
        budgets=options.budgets or config.targets.budgets,
        evaluations=search.evaluations if options.evaluations is None else options.evaluations,
        prompts=search.prompts if options.prompts is None else options.prompts,
        seed=options.seed,
        command=command_line("search", *options.typed),
    )
    settings.check(config)
    check_writable(folder, folders=True)
    check_writable(settings.out)
    if "nsga2" in settings.methods:
        require("train", "pymoo")
    try:
        out = search_schedules(config, settings, progress=shown_progress("search", options))
    except KeyboardInterrupt:
        resume = [] if options.resume == str(folder) else ["--resume", str(folder)]
        again = command_line("search", *options.typed, *resume)
        print(f"\ninterrupted; go on with: {again}", file=sys.stderr)
        return 130
    Console().print(render_schedules(load_schedules(out)))
    again = command_line("eval", str(out), "--env", options.env)
    print(f"schedules: {out}\nmeasure them: {again}")
    return 0
