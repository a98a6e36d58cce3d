"""`ditcache-rl mos`: prepare a blind set of images for raters, and report what they said."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ditcache_rl.cli.options import HelpFormatter, add_seed, add_steps, command_line
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.files import is_there

HELP = "ask people what they see, and report it"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    doing = parser.add_subparsers(dest="doing", required=True, metavar="WHAT")
    prepare = doing.add_parser(
        "prepare", help="draw a blind set of pairs", formatter_class=HelpFormatter
    )
    prepare.add_argument(
        "policy", nargs="?", default="shapes-ppo", help="policy folder, shipped name, or file"
    )
    prepare.add_argument("--env", default="shapes", help="environment whose test prompts are drawn")
    prepare.add_argument("--prompts", type=int, default=6, help="test prompts to draw")
    prepare.add_argument(
        "--speedups",
        type=float,
        nargs="+",
        default=[2.0, 4.0],
        metavar="X",
        help="each method is shown at its settings nearest to these",
    )
    prepare.add_argument(
        "--methods", nargs="+", metavar="NAME", help="names as in the table of eval (default: all)"
    )
    add_steps(prepare, "the policy's first")
    add_seed(prepare, "names and order of the pages")
    prepare.add_argument("--out", type=Path, required=True, help="folder of the set")
    report = doing.add_parser("report", help="score a set", formatter_class=HelpFormatter)
    report.add_argument("set", type=Path, help="folder of the set")
    report.add_argument("--json", type=Path, help="write the report to this file")


def run(options: Namespace) -> int:
    """Prepare, or report."""
    return _prepare(options) if options.doing == "prepare" else _report(options)


def _prepare(options: Namespace) -> int:
    given = Path(options.policy)
    policy = given if is_there(given) else find_policy(options.policy)
    config = load_env(options.env)

    from ditcache_rl.cli.progress import Bar
    from ditcache_rl.errors import ConfigError
    from ditcache_rl.evaluate.panel import check_speedups, panel, panel_facts
    from ditcache_rl.evaluate.policy import evaluate_policy
    from ditcache_rl.files import check_writable
    from ditcache_rl.mos import RatingSet

    check_speedups(options.speedups)
    check_writable(options.out, folders=True)
    if options.out.exists():
        raise ConfigError(f"expected a folder that does not exist, received {options.out}")
    results = evaluate_policy(
        policy,
        config,
        prompts=options.prompts,
        steps=options.steps,
        only=options.methods,
        progress=Bar("mos"),
        kept=options.prompts,
        pictured=None,
    )
    shown = panel(results, options.speedups)
    command = command_line("mos", *options.typed)
    made = RatingSet.write(
        options.out, shown, facts=panel_facts(config.id, command), seed=options.seed
    )
    for note in results.notes:
        print(f"note: {note}")
    print(
        f"{len(made.pages)} pages: {options.out}\n"
        f"serve them: {command_line('studio', '--mos', str(options.out))}"
    )
    return 0


def _report(options: Namespace) -> int:
    from rich.console import Console

    from ditcache_rl.cli.opinions import render_opinions, render_raters
    from ditcache_rl.files import check_writable, write_json
    from ditcache_rl.mos import Ratings, RatingSet, opinion_report

    if options.json is not None:
        check_writable(options.json)
    report = opinion_report(RatingSet.read(options.set), Ratings.of(options.set).every())
    console = Console()
    console.print(render_opinions(report))
    console.print(render_raters(report))
    for name, found in report["correlations"].items():
        said = ", ".join(f"{kind} {value:+.2f}" for kind, value in found.items())
        console.print(f"agreement with {name}: {said}", highlight=False, markup=False)
    if options.json is not None:
        write_json(options.json, report)
    return 0
