"""`ditcache-rl analyze`: measure the sensitivity of every site, grade it, draw it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ditcache_rl.cli.options import RUNS, add_display, add_env, add_out, add_steps, run_folder
from ditcache_rl.config import load_env

HELP = "measure and grade the sensitivity of every site"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    add_env(parser)
    parser.add_argument("--sites", type=int, help="parts of the block stack (default: its blocks)")
    parser.add_argument(
        "--sublayers",
        action="store_true",
        help="measure attention and feed-forward of every block in place of sites",
    )
    add_steps(parser)
    parser.add_argument("--prompts", type=int, default=10, help="train prompts to measure on")
    parser.add_argument("--images", type=int, default=4, help="images per prompt")
    parser.add_argument("--probes", type=int, default=2, help="random images per image")
    parser.add_argument(
        "--injection-prompts",
        type=int,
        default=0,
        help="train prompts for the ground truth, an image per site and step each",
    )
    add_out(parser, "folder of map and picture", "runs/analyze/ENV/TIME")
    add_display(parser)


def run(options: Namespace) -> int:
    """Measure, and leave `sensitivity.json` and `sensitivity.png`."""
    config = load_env(options.env)
    out = options.out or run_folder(RUNS / "analyze" / config.name)

    from rich.console import Console

    from ditcache_rl.cli.progress import shown_progress
    from ditcache_rl.cli.tables import agreement, render_map
    from ditcache_rl.evaluate import plot_sensitivity
    from ditcache_rl.files import check_writable
    from ditcache_rl.machine import require
    from ditcache_rl.sensitivity import save_map
    from ditcache_rl.sensitivity.run import AnalyzeOptions, analyze

    require("train", "matplotlib")
    check_writable(out, folders=True)
    settings = AnalyzeOptions(
        sites=options.sites,
        sublayers=options.sublayers,
        steps=options.steps,
        prompts=options.prompts,
        injection_prompts=options.injection_prompts,
        images=options.images,
        probes=options.probes,
    )
    found = analyze(config, settings, progress=shown_progress("analyze", options))
    table, picture = out / "sensitivity.json", out / "sensitivity.png"
    save_map(found, table)
    plot_sensitivity(found, picture)
    Console().print(render_map(found))
    print(f"{agreement(found)}\nmap: {table}\npicture: {picture}")
    return 0
