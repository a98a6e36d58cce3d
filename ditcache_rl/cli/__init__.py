"""The command line; `train.py`, `eval.py` and the console script `ditcache-rl` end here.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ditcache_rl.config import EnvConfig, find_policy, load_env, shipped_envs, shipped_policies
from ditcache_rl.errors import ConfigError, DitcacheError

_RUNS = Path("runs")
#: Columns of a report where no terminal says how many there are, and of the longest line of all.
_FILE_WIDTH, _WIDE = 112, 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    # What transformers says of packages that are not installed concerns none of the commands.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        status: int = options.command(options)
    except DitcacheError as error:
        # What other libraries say inside of it may have several lines.
        print("error:", " ".join(str(error).split("\n")), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser("ditcache-rl", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="learn a policy", formatter_class=formatter)
    train.add_argument(
        "env", nargs="?", default="shapes", help="environment file, or name of a shipped one"
    )
    train.add_argument(
        "--out", type=Path, help="folder of the policy (default: runs/ENV/TIME/policy)"
    )
    train.add_argument("--seed", type=int, default=1, help="seed of search, actions and weights")
    train.add_argument(
        "--episodes", type=int, help="episodes of PPO, in place of the environment's"
    )
    train.add_argument("--force", action="store_true", help="replace an existing policy")
    train.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="RUN",
        help="go on with an interrupted run: its folder, or the latest of the environment",
    )
    train.add_argument(
        "--retarget",
        metavar="POLICY",
        help="keep the schedules of a policy and recalibrate it for this environment's weights",
    )
    train.set_defaults(command=_train)

    search = commands.add_parser(
        "search", help="search static schedules", formatter_class=formatter
    )
    search.add_argument(
        "env", nargs="?", default="shapes", help="environment file, or name of a shipped one"
    )
    search.add_argument(
        "--method",
        default="polish",
        metavar="NAME",
        help="uniform, table, dp, minimax, climb, anneal, nsga2, polish, fitted, or all",
    )
    search.add_argument(
        "--budgets",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="shares of full compute, in place of the environment's",
    )
    search.add_argument(
        "--evaluations", type=int, help="candidates per budget, in place of the environment's"
    )
    search.add_argument(
        "--prompts", type=int, help="train prompts to score on, in place of the environment's"
    )
    search.add_argument("--steps", type=int, help="denoising steps, in place of the environment's")
    search.add_argument("--seed", type=int, default=1, help="seed of the search")
    search.add_argument(
        "--out", type=Path, help="schedule file (default: runs/search/ENV/TIME/schedules.json)"
    )
    search.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="RUN",
        help="go on with an interrupted search: its folder, or the latest of the environment",
    )
    search.set_defaults(command=_search)

    analyze = commands.add_parser(
        "analyze", help="measure and grade the sensitivity of every site", formatter_class=formatter
    )
    analyze.add_argument(
        "env", nargs="?", default="shapes", help="environment file, or name of a shipped one"
    )
    analyze.add_argument("--sites", type=int, help="parts of the block stack (default: its blocks)")
    analyze.add_argument(
        "--sublayers",
        action="store_true",
        help="measure attention and feed-forward of every block in place of sites",
    )
    analyze.add_argument("--steps", type=int, help="denoising steps, in place of the environment's")
    analyze.add_argument("--prompts", type=int, default=10, help="train prompts to measure on")
    analyze.add_argument("--images", type=int, default=4, help="images per prompt")
    analyze.add_argument("--probes", type=int, default=2, help="random images per image")
    analyze.add_argument(
        "--injection-prompts",
        type=int,
        default=0,
        help="train prompts for the ground truth, an image per site and step each",
    )
    analyze.add_argument(
        "--out", type=Path, help="folder of map and picture (default: runs/analyze/ENV/TIME)"
    )
    analyze.set_defaults(command=_analyze)

    evaluate = commands.add_parser("eval", help="measure a policy", formatter_class=formatter)
    evaluate.add_argument(
        "policy",
        nargs="?",
        default="shapes-ppo",
        help="policy folder, name of a shipped one, or schedule file",
    )
    evaluate.add_argument(
        "--env", default="shapes", help="environment whose test prompts are drawn"
    )
    evaluate.add_argument("--prompts", type=int, default=32, help="test prompts to draw")
    evaluate.add_argument("--steps", type=int, help="denoising steps (default: the policy's first)")
    evaluate.add_argument("--json", type=Path, help="write all results to this file")
    evaluate.add_argument(
        "--out", type=Path, help="folder of plot and picture grid (default: runs/eval/TIME)"
    )
    evaluate.set_defaults(command=_eval)

    export = commands.add_parser(
        "export",
        help="write a policy's schedules, and its network as ONNX",
        formatter_class=formatter,
    )
    export.add_argument(
        "policy", nargs="?", default="shapes-ppo", help="policy folder, or name of a shipped one"
    )
    export.add_argument("--schedules", type=Path, help="schedule file to write")
    export.add_argument("--onnx", type=Path, help="ONNX file of the network to write")
    export.set_defaults(command=_export)

    listing = commands.add_parser("list", help="name what is shipped", formatter_class=formatter)
    listing.add_argument("what", choices=["envs", "policies", "pipelines"], help="kind of thing")
    listing.set_defaults(command=_list)
    return parser


def _train(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from rich.console import Console

    config = load_env(options.env)
    if options.episodes is not None:
        if options.episodes < 1:
            raise ConfigError(f"--episodes must be >= 1, received {options.episodes}")
        config = replace(config, ppo=replace(config.ppo, episodes=options.episodes))
    run = _run_folder(_RUNS / config.name, options.resume)
    out = options.out or run / "policy"
    if options.retarget is not None:
        return _retarget(options, config, out)

    from ditcache_rl.cli.progress import Bar
    from ditcache_rl.rl.train import TrainOptions, train

    command = shlex.join(["python", "train.py", *sys.argv[1:]])
    settings = TrainOptions(run, out, options.force, options.seed, command)
    settings.check()
    console = Console(stderr=True)

    def say(text: str) -> None:
        # Neither wrapped nor styled: the commands in it are there to be copied.
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    say(f"run folder {run}; curves: tensorboard --logdir {run}")
    try:
        train(config, settings, bar=Bar("train", console))
    except KeyboardInterrupt:
        again = shlex.join(_resuming(options, run))
        say(f"\ninterrupted; what is finished is kept in {run}. Go on with: {again}")
        return 130
    print((out / "README.md").read_text())
    print(f"policy: {out}\nmeasure it: python eval.py {out}")
    return 0


def _retarget(options: argparse.Namespace, config: EnvConfig, out: Path) -> int:
    """Recalibrate a policy for the pipeline of an environment."""
    policy, source = find_policy(options.retarget), config.pipeline

    from ditcache_rl.pipelines import open_configured
    from ditcache_rl.rl.retarget import retarget_folder

    out.parent.mkdir(parents=True, exist_ok=True)
    pipe = open_configured(source)
    retarget_folder(policy, out, pipe, config, force=options.force)
    print(f"policy: {out}\nmeasure it: python eval.py {out} --env {options.env}")
    return 0


def _resuming(options: argparse.Namespace, run: Path) -> list[str]:
    """Return the command that goes on with an interrupted training."""
    command = ["python", "train.py", options.env, "--resume", str(run), "--seed", str(options.seed)]
    if options.episodes is not None:
        command += ["--episodes", str(options.episodes)]
    return command if options.out is None else [*command, "--out", str(options.out)]


def _search(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from rich.console import Console

    config = load_env(options.env)
    if options.steps is not None:
        if options.steps < 3:
            raise ConfigError(f"--steps must be >= 3, received {options.steps}")
        config = replace(config, steps=[options.steps])
    run = _run_folder(_RUNS / "search" / config.name, options.resume)

    from ditcache_rl.cli.progress import Bar
    from ditcache_rl.cli.tables import render_schedules
    from ditcache_rl.policy import load_schedules
    from ditcache_rl.search import METHODS
    from ditcache_rl.search.run import SearchOptions, search_schedules

    settings = SearchOptions(
        run=run,
        out=options.out or run / "schedules.json",
        methods=list(METHODS) if options.method == "all" else [options.method],
        budgets=options.budgets or config.targets.budgets,
        evaluations=_given(options.evaluations, config.search.evaluations),
        prompts=_given(options.prompts, config.search.prompts),
        seed=options.seed,
        command=shlex.join(["ditcache-rl", *sys.argv[1:]]),
    )
    try:
        out = search_schedules(config, settings, progress=Bar("search"))
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with the same command and --resume {run}", file=sys.stderr)
        return 130
    Console().print(render_schedules(load_schedules(out)))
    print(f"schedules: {out}\nmeasure them: python eval.py {out}")
    return 0


def _analyze(options: argparse.Namespace) -> int:
    from rich.console import Console

    config = load_env(options.env)
    out = options.out or _run_folder(_RUNS / "analyze" / config.name, None)

    from ditcache_rl.cli.progress import Bar
    from ditcache_rl.cli.tables import agreement, render_map
    from ditcache_rl.evaluate import plot_sensitivity
    from ditcache_rl.sensitivity import save_map
    from ditcache_rl.sensitivity.run import AnalyzeOptions, analyze

    settings = AnalyzeOptions(
        sites=options.sites,
        sublayers=options.sublayers,
        steps=options.steps,
        prompts=options.prompts,
        injection_prompts=options.injection_prompts,
        images=options.images,
        probes=options.probes,
    )
    found = analyze(config, settings, progress=Bar("analyze"))
    save_map(found, out / "sensitivity.json")
    plot_sensitivity(found, out / "sensitivity.png")
    Console().print(render_map(found))
    print(
        f"{agreement(found)}\nmap: {out / 'sensitivity.json'}\npicture: {out / 'sensitivity.png'}"
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    if not (options.schedules or options.onnx):
        raise ConfigError("expected --schedules FILE, --onnx FILE or both, received neither")

    from ditcache_rl.policy import load_policy
    from ditcache_rl.rl.export import export_onnx, export_schedules

    policy = load_policy(find_policy(options.policy))
    for file, export in ((options.schedules, export_schedules), (options.onnx, export_onnx)):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            export(policy, file)
            print(file)
    return 0


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _run_folder(home: Path, resume: str | None) -> Path:
    """Return a new run folder, or the one to go on with."""
    if resume is None:
        return home / datetime.now().strftime("%Y%m%d-%H%M%S")
    if resume != "latest":
        if not Path(resume).is_dir():
            raise ConfigError(f"--resume must name a run folder, received {resume!r}")
        return Path(resume)
    runs = sorted(path for path in home.glob("*") if path.is_dir())
    if not runs:
        raise ConfigError(f"--resume found no run in {home}; leave it out to start one")
    return runs[-1]


def _eval(options: argparse.Namespace) -> int:
    given = Path(options.policy)
    policy = given if given.is_file() else find_policy(options.policy)
    config = load_env(options.env)
    out = options.out or _RUNS / "eval" / datetime.now().strftime("%Y%m%d-%H%M%S")

    from rich.console import Console

    from ditcache_rl.cli.progress import Bar
    from ditcache_rl.evaluate import build_report, plot_frontier, plot_grid, render_table
    from ditcache_rl.evaluate.policy import evaluate_policy
    from ditcache_rl.files import write_json

    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    results = evaluate_policy(
        policy, config, prompts=options.prompts, steps=options.steps, progress=Bar("eval")
    )
    command = shlex.join(["python", "eval.py", *sys.argv[1:]])
    report = build_report(results, env=config.id, command=command)
    console.print(render_table(report))
    for file in {out / "report.json", options.json or out / "report.json"}:
        write_json(file, report)
    plot_frontier(results, out / "frontier.png")
    plot_grid(results, out / "grid.png")
    console.print(f"report, plot and pictures: {out}", soft_wrap=True)
    return 0


def _list(options: argparse.Namespace) -> int:
    if options.what == "pipelines":
        from rich.console import Console

        from ditcache_rl.cli.tables import render_pipelines

        console = Console()
        if not console.is_terminal:  # a file or a pipe has no width to keep to
            console = Console(width=_WIDE)
        console.print(render_pipelines())
        console.print("Others are looked at when they are attached: see docs/pipelines.md.")
        return 0
    if options.what == "envs":
        for name in shipped_envs():
            print(f"{name:<20} {load_env(name).id}")
        return 0
    for name in shipped_policies():
        print(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
