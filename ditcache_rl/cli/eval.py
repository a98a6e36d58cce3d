"""`ditcache-rl eval`, or `eval.py`: measure a policy and its opponents, and show the result."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ditcache_rl.cli.options import (
    RUNS,
    add_display,
    add_out,
    add_steps,
    command_line,
    run_folder,
)
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.files import is_there

HELP = "measure a policy"


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "policy",
        nargs="?",
        default="shapes-ppo",
        help="policy folder, name of a shipped one, or schedule file",
    )
    parser.add_argument("--env", default="shapes", help="environment whose test prompts are drawn")
    parser.add_argument("--prompts", type=int, default=32, help="test prompts to draw")
    add_steps(parser, "the policy's first")
    parser.add_argument(
        "--deadline-s",
        type=float,
        nargs="+",
        metavar="SECONDS",
        help="deadlines of a call to measure besides, kept by the clock",
    )
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write a page besides, report.html in this folder, that works offline",
    )
    add_out(parser, "folder of report, plot and picture grid", "runs/eval/TIME")
    add_display(parser)


def run(options: Namespace) -> int:
    """Measure, print, write and plot."""
    given = Path(options.policy)
    policy = given if is_there(given) else find_policy(options.policy)
    config = load_env(options.env)
    out = options.out or run_folder(RUNS / "eval")

    from ditcache_rl.cli.progress import shown_progress
    from ditcache_rl.cli.tables import wide_console
    from ditcache_rl.evaluate import (
        build_report,
        plot_frontier,
        plot_grid,
        render_deadlines,
        render_table,
        write_page,
    )
    from ditcache_rl.evaluate.policy import evaluate_policy
    from ditcache_rl.evaluate.run import KEPT_PROMPTS
    from ditcache_rl.files import check_writable, write_json
    from ditcache_rl.machine import require

    files = {out / "report.json", options.json or out / "report.json"}
    require("train", "matplotlib")
    kept = KEPT_PROMPTS
    if options.report is not None:
        require("report", "plotly")
        check_writable(options.report, folders=True)
        kept = max(kept, options.prompts)  # the best and the worst may be any of them
    check_writable(out, folders=True)
    check_writable(*files)
    results = evaluate_policy(
        policy,
        config,
        prompts=options.prompts,
        steps=options.steps,
        deadlines=options.deadline_s or (),
        progress=shown_progress("eval", options),
        kept=kept,
    )
    command = command_line("eval", *options.typed)
    report = build_report(results, env=config.id, command=command)
    console = wide_console()
    console.print(render_table(report))
    if report["deadlines"]:
        console.print(render_deadlines(report))
    for file in files:
        write_json(file, report)
    plot_frontier(report, out / "frontier.png")
    plot_grid(results, out / "grid.png")
    console.print(f"report, plot and pictures: {out}", soft_wrap=True, markup=False)
    if options.report is not None:
        page = options.report / "report.html"
        write_page(page, report, results.albums)
        console.print(f"page: {page}", soft_wrap=True, markup=False)
    return 0
