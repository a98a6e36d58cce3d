"""`ditcache-rl list`: name what is shipped."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ditcache_rl.config import load_env, shipped_envs, shipped_policies, shipped_starters

HELP = "name what is shipped"

_WIDE = 200  # characters: the longest line


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=["envs", "policies", "pipelines"], help="kind of thing")


def run(options: Namespace) -> int:
    """Print names, or the table of the pipelines that were examined."""
    if options.what == "envs":
        for name in [*shipped_envs(), *shipped_starters()]:
            print(f"{name:<20} {load_env(name).id}")
    elif options.what == "policies":
        for name in shipped_policies():
            print(name)
    else:
        _print_pipelines()
    return 0


def _print_pipelines() -> None:
    from rich.console import Console

    from ditcache_rl.cli.tables import render_pipelines

    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(width=_WIDE)
    console.print(render_pipelines())
    console.print("Others are looked at when they are attached: see docs/pipelines.md.")
