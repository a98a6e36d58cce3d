"""`ditcache-rl export`: hand a policy's schedules, and its network, to others."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ditcache_rl.config import check_within, find_policy, load_env
from ditcache_rl.config.shipped import shipped_ids
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import MOST_COUNT, Floats

if TYPE_CHECKING:
    from ditcache_rl.inference import Target
    from ditcache_rl.policy import Policy
    from ditcache_rl.schedules import Schedule
    from ditcache_rl.search.engines import EngineSearch

HELP = "write a policy's schedules, its network as ONNX, or a schedule as others take it"
#: What one schedule is written as.
FORMS = ("scheduler", "cache-dit", "mag-cache", "dpcache", "csv")
#: Select prompts that --search draws: what differs between sets of steps shows on few.
_SEARCHED = 8
#: Train prompts that --fit fits to, and select prompts that tell whether it gains: a few tenths of
#: a decibel show on so many.
_FITTED, _JUDGED = 64, 64
_TARGETS = ("speedup", "budget", "min_psnr", "min_ssim")


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "policy", nargs="?", default="shapes-ppo", help="policy folder, or name of a shipped one"
    )
    parser.add_argument("--schedules", type=Path, help="schedule file to write")
    parser.add_argument("--onnx", type=Path, help="ONNX file of the network to write")
    parser.add_argument("--to", choices=FORMS, help="write one schedule as others take it")
    parser.add_argument(
        "--out", type=Path, help="what --to writes: a folder for scheduler, a file otherwise"
    )
    parser.add_argument("--speedup", type=float, help="target of --to (default: 2)")
    parser.add_argument("--budget", type=float, help="target of --to: share of full compute")
    parser.add_argument("--min-psnr", type=float, help="target of --to: dB that 95 %% reach")
    parser.add_argument("--min-ssim", type=float, help="target of --to: likewise in SSIM")
    parser.add_argument("--steps", type=int, help="step count of --to (default: the policy's own)")
    parser.add_argument(
        "--pipeline", help="folder or Hub id whose scheduler it is (default: the environment's)"
    )
    parser.add_argument(
        "--search",
        type=int,
        metavar="N",
        help="try N sets of steps in the engine of --to, on select prompts, and write the best",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="of --to scheduler: fit its updates to full compute of train prompts in several ways, "
        "and keep the best",
    )
    parser.add_argument(
        "--env",
        help="environment of --search and --fit (default: the shipped one of the policy)",
    )
    parser.add_argument(
        "--request", metavar="JSON", help="of --to dpcache: what requests to SGLang must match"
    )


def run(options: Namespace) -> int:
    """Write what was asked for."""
    if not (options.schedules or options.onnx or options.to):
        raise ConfigError(
            "expected --schedules FILE, --onnx FILE, --to FORM --out PATH or several, received "
            "none of them"
        )
    if bool(options.to) != bool(options.out):
        raise ConfigError("expected --to FORM and --out PATH together, received one of them")
    _check_form(options)
    paths = [path for path in (options.schedules, options.onnx, options.out) if path]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"expected different files, received {paths[0]} for two of them")
    folder = find_policy(options.policy)

    from ditcache_rl.files import check_writable
    from ditcache_rl.machine import require
    from ditcache_rl.policy import load_policy
    from ditcache_rl.policy.export import export_onnx, export_schedules

    if options.onnx:
        require("onnx", "onnx", "onnxscript")
    wanted = ((options.schedules, export_schedules), (options.onnx, export_onnx))
    check_writable(*(file for file, _ in wanted if file))
    if options.out:
        check_writable(options.out, folders=options.to == "scheduler")
    policy = load_policy(folder)
    for file, export in wanted:
        if file:
            export(policy, file)
            print(file)
    if options.to:
        _export(options, policy)
    return 0


def _check_form(options: Namespace) -> None:
    """Refuse options that the form of --to has no use for."""
    if options.search is not None:
        from ditcache_rl.search.engines import ENGINES

        check_within("--search", options.search, 1, MOST_COUNT)
        if options.to not in ENGINES:
            raise ConfigError(
                f"expected --search with --to {', '.join(ENGINES)}, received --to {options.to}"
            )
    elif options.env is not None and not options.fit:
        raise ConfigError(
            f"expected --search N or --fit with --env {options.env}, which is where they "
            "draw, received neither"
        )
    if options.fit and options.to != "scheduler":
        raise ConfigError(
            f"expected --fit with --to scheduler, received --to {options.to}: others estimate in "
            "their own way"
        )
    if options.request is not None and options.to != "dpcache":
        raise ConfigError(f"expected --request with --to dpcache, received --to {options.to}")


def _export(options: Namespace, policy: Policy) -> None:
    """Write one schedule, and say what to know of it."""
    from ditcache_rl.inference import Target, policy_schedule

    asked = {name: getattr(options, name) for name in _TARGETS}
    asked = {name: value for name, value in asked.items() if value is not None}
    target, notes = Target(**(asked or {"speedup": 2.0})), list[str]()
    if options.to == "scheduler":
        notes = _export_scheduler(options, policy, target)
    else:
        schedule, sigmas = policy_schedule(policy, target, steps=options.steps)
        write = _writer(options, policy, sigmas)
        if options.search:
            with TemporaryDirectory() as folder:  # what it refuses, it refuses before the search
                write(schedule, Path(folder) / "file")
            found = _search(options, policy, schedule)
            schedule = found.schedule
            if options.to == "cache-dit":
                write = partial(write, calls=found.calls)
        notes = [f"not the same: {one}" for one in write(schedule, options.out)]
    print(options.out, *notes, sep="\n")


def _writer(options: Namespace, policy: Policy, sigmas: Floats) -> Callable[..., list[str]]:
    """Return what writes a schedule to a file, and says what is not the same there."""
    from ditcache_rl.policy.engines import export_cache_dit, export_dpcache, export_mag_cache
    from ditcache_rl.policy.export import export_csv

    def csv(schedule: Schedule, file: Path) -> list[str]:
        export_csv(schedule, sigmas, file)
        return []

    def dpcache(schedule: Schedule, file: Path) -> list[str]:
        return export_dpcache(schedule, sigmas, file, scheduler=scheduler, request=request)

    if options.to == "dpcache":
        request, scheduler = _read_request(options.request), _scheduler_of(options, policy)
        return dpcache
    return {"csv": csv, "cache-dit": export_cache_dit, "mag-cache": export_mag_cache}[options.to]


def _export_scheduler(options: Namespace, policy: Policy, target: Target) -> list[str]:
    """Write a scheduler folder, and return how it is used."""
    from ditcache_rl.inference import policy_scheduler

    plain = _scheduler_of(options, policy)
    made = policy_scheduler(policy, plain, target, steps=options.steps)
    if options.fit:
        made, found = _refit(options, policy, made)
        print(*found, sep="\n")
    made.save_pretrained(options.out)
    kind, computes = type(made).__name__, len(made.config.path)
    if made.collapsed.by_branch:
        return [
            f"from ditcache_rl.solver import {kind}, applied",
            f'with applied(pipe, {kind}.from_pretrained("{options.out}")):',
            f"    pipe(..., num_inference_steps={computes})",
        ]
    return [
        f"from ditcache_rl.solver import {kind}",
        f'pipe.scheduler = {kind}.from_pretrained("{options.out}")',
        f"pipe(..., num_inference_steps={computes})",
    ]


def _refit(options: Namespace, policy: Policy, made: Any) -> tuple[Any, list[str]]:
    """Fit the updates of a scheduler, and say what is gained; return it as is if nothing."""
    from ditcache_rl.bench import cases_of
    from ditcache_rl.cli.progress import Bar
    from ditcache_rl.pipelines import open_matching
    from ditcache_rl.search.free_loop import FreeLoop
    from ditcache_rl.search.refit import refit

    config = load_env(options.env or _env_of(policy.manifest.env_id))
    train, select = (cases_of(config, part) for part in ("train", "select"))
    pipe, select = open_matching(config.pipeline, policy.manifest), select[:_JUDGED]
    loops = partial(
        FreeLoop.of,
        pipe,
        steps=len(made.collapsed.sigmas) - 1,
        call=config.pipeline.call,
        rows=config.agent.rows,
    )
    with Bar("fit") as bar:
        bar.stage("full compute")
        found = refit(made.collapsed, loops(train[:_FITTED]), loops(select), progress=bar)
    said = [f"PSNR on {len(select)} select prompts: {found.own_db:.1f} dB by the policy's schedule"]
    said += [
        f"{one.way}: {one.found_db:.1f} dB, {one.gain.mean:+.2f} dB (95 %: "
        f"{one.gain.low:+.2f} to {one.gain.high:+.2f})"
        for one in found.fitted
    ]
    best = found.best
    if best is None:
        return made, [*said, "kept: the policy's schedule, as nothing is a gain for sure"]
    at = ", ".join(f"{time:.3f}" for time in best.collapsed.times)
    kept = f"kept: {best.way}, {best.gain.mean:+.2f} dB, computed at {at}"
    return made.following(best.collapsed), [*said, kept]


def _search(options: Namespace, policy: Policy, schedule: Schedule) -> EngineSearch:
    """Search the steps of a schedule again where they will run, and say what is lost there."""
    import numpy as np

    from ditcache_rl.bench import Board, cases_of
    from ditcache_rl.cli.progress import Bar
    from ditcache_rl.pipelines import open_matching
    from ditcache_rl.search.engines import ENGINES, search_under

    config = load_env(options.env or _env_of(policy.manifest.env_id))
    engine, always = ENGINES[options.to]
    cases = cases_of(config, "select")[:_SEARCHED]
    pipe = open_matching(config.pipeline, policy.manifest)
    board = Board.of(config, pipe, steps=schedule.steps)
    with Bar("search") as bar:
        bar.expect(options.search)
        found = search_under(
            engine,
            board,
            cases,
            schedule,
            evaluations=options.search,
            rng=np.random.default_rng(0),
            always=always,
            on_path=lambda: bar.advance(1),
        )
    print(
        f"PSNR on {len(cases)} select prompts: {found.own_db:.1f} dB as the policy draws, "
        f"{found.same_db:.1f} dB with the same steps in {options.to}, {found.found_db:.1f} dB with "
        "those that were found"
    )
    return found


def _scheduler_of(options: Namespace, policy: Policy) -> Any:
    """Open the scheduler of the pipeline that is meant."""
    from ditcache_rl.pipelines import open_scheduler

    if options.pipeline:
        return open_scheduler(options.pipeline)
    config = load_env(options.env or _env_of(policy.manifest.env_id))
    return open_scheduler(config.pipeline.source)


def _read_request(text: str | None) -> dict[str, Any]:
    """Read what requests must match."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"--request: expected a JSON object, received {text!r}")
    return found


def _env_of(env_id: str) -> str:
    """Return the name of a shipped environment."""
    for name, known in shipped_ids().items():
        if known == env_id:
            return name
    raise ConfigError(
        f"expected --pipeline, the folder or Hub id of the pipeline that the policy was made for, "
        f"or --env where something is drawn: its environment {env_id} is none of the shipped ones"
    )
