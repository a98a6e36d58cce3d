"""Quality against measured speed-up: every peer and every way of ours, side by side in one run.

All contenders draw the same prompts from the same seeds with the same pipeline, one image at a
time, in turn; `peers/contenders.py` lists them. Frontiers are interpolated in measured speed-up of
the whole pipeline call. Those that can't matter are drawn on the first prompts alone: on 4 where
they are slower than 1.3x, on 16 (4 with `--quick`) where they are 7 dB behind the best of their
side, ours or peers, at their speed. With `--resume` a run that was cut off goes on, and of one that
has ended those contenders are drawn again whose schedules, solvers, settings or policy have changed
since. Every image is timed against one of the plain pipeline in the same turn. A contender that
can't run here is a line with its error.

`best_ours_db_2x`, `best_peer_db_2x`, `ahead_db_2x` (and `3x`, `4_5x`): mean PSNR at a speed-up of
the best contender of ours, of the best of all others (packages, published rules under our runner,
fewer steps, other solvers), and the difference; the same with `p5_db` and `ssim`.
`ours_x_38db`, `peer_x_38db` (and 35, 30): the highest speed-up at which that mean PSNR is kept. It
ends in `_at_least` where even the fastest point of whoever is best keeps it: there was nothing
faster to measure, and nobody knows how fast it would be. `best` of the details names all such.
Contenders with converted models (compiled, bf16, int8) have rows and lines, ours and fewer steps
alike, and no part in any of these figures; nor have settings that were drawn on the first prompts
alone.
`peers_failed_count`: contenders of `peers_count` of which no setting ran.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.harness import ROOT, Benchmark, console, parser, writable
from benchmarks.peers.contender import Setup
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.made import made_of
from benchmarks.peers.searched import schedules_for, with_schedules
from benchmarks.race.frontiers import figures_of, lines_of, standings
from benchmarks.race.host import Entrant, Host, LocalHost, RemoteHost
from benchmarks.race.measure import PICTURED, Log, measure
from benchmarks.race.page import write_page
from benchmarks.race.sheet import show, write_pngs
from ditcache_rl.bench import Case, cases_of
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.blocks import is_whole
from ditcache_rl.metrics import load_lpips
from ditcache_rl.pipelines import open_pipeline, pipeline_identity
from ditcache_rl.policy import load_policy
from ditcache_rl.schedules import ScheduleTable

PROMPTS, QUICK_PROMPTS = 128, 32
#: Prompts that every contender draws that is fast enough; then only those go on that may matter.
TRIED_PROMPTS, QUICK_TRIED_PROMPTS = 16, 4
#: Prompts of a search, and candidates that it draws per number of computes; in a short run fewer.
SEARCH_PROMPTS, EVALUATIONS = 8, 24
QUICK_SEARCH_PROMPTS, QUICK_EVALUATIONS = 4, 12
#: Prompts that solvers are learned from, and ours fitted to, and judged on besides.
LEARN_PROMPTS, QUICK_LEARN_PROMPTS = 16, 8
FIT_PROMPTS, QUICK_FIT_PROMPTS = 64, 16
SCHEDULES = ROOT / "benchmarks" / "results" / "frontier-schedules.json"
RUNS = ROOT / "runs" / "frontier"


def main(arguments: list[str] | None = None) -> int:
    """Measure and report."""
    options = _options().parse_args(arguments)
    if options.draw is not None:
        known = json.loads(options.draw.read_text(encoding="utf-8"))
        _draw(options, known["figures"], known["details"], ())
        return 0
    run = Benchmark(arguments)
    config = load_env(options.env)
    source = options.pipeline or config.pipeline.source
    call = {} if options.pipeline else config.pipeline.call
    call = call if options.call is None else json.loads(options.call)
    torch.set_num_threads(os.cpu_count() or 1)
    pipe = open_pipeline(source)
    count = options.count or (QUICK_PROMPTS if options.quick else PROMPTS)
    cases = _cases(options.prompts, config, count)
    train, select = cases_of(config, "train"), cases_of(config, "select")
    table = _whole_table(options.policy, pipe, options.steps)
    entry = schedules_for(
        pipe,
        steps=options.steps,
        call=call,
        cases=train[: QUICK_SEARCH_PROMPTS if options.quick else SEARCH_PROMPTS],
        learn=train[: QUICK_LEARN_PROMPTS if options.quick else LEARN_PROMPTS],
        select=select[: QUICK_SEARCH_PROMPTS if options.quick else SEARCH_PROMPTS],
        fit=train[: QUICK_FIT_PROMPTS if options.quick else FIT_PROMPTS],
        judge=select[: QUICK_FIT_PROMPTS if options.quick else FIT_PROMPTS],
        evaluations=QUICK_EVALUATIONS if options.quick else EVALUATIONS,
        table=table,
        file=options.schedules,
        say=console.print,
    )
    setup = with_schedules(
        Setup(
            pipe,
            options.steps,
            lambda: _calibrate(pipe, train[0], options.steps, call),
            policy=options.policy,
        ),
        entry,
        table,
    )
    chosen = [one for one in CONTENDERS if options.only is None or one.name in options.only]
    entrants = [Entrant(one.process, one, value) for one in chosen for value in one.values]
    policy = find_policy(options.policy)
    digests = {one.name: made_of(one.name, entry, policy, table) for one in chosen}
    made = {one.label: digests[one.contender.name] for one in entrants if one.contender}
    facts = {
        "pipeline": source,
        "steps": options.steps,
        "call": call,
        "jobs": hashlib.sha256(json.dumps(cases).encode()).hexdigest(),
        "threads": torch.get_num_threads(),
    }
    name = source.replace(":", "-").replace("/", "-").strip("-")
    log = Log(RUNS / f"{name}-{options.steps}", facts, resume=options.resume, made=made)
    hosts: dict[str, Host] = {"main": LocalHost(setup, call)}
    remotes = {
        process: RemoteHost(source, options.steps, call, torch.get_num_threads())
        for process in {entrant.process for entrant in entrants} - {"main"}
    }
    images = (len(entrants) + len(hosts) + len(remotes)) * (len(cases) + 1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task("", total=images)
            measure(
                hosts | remotes,
                entrants,
                cases,
                log,
                tried=QUICK_TRIED_PROMPTS if options.quick else TRIED_PROMPTS,
                lpips=load_lpips(),
                on_image=lambda text: bar.update(task, description=text, advance=1),
            )
    finally:
        for remote in remotes.values():
            remote.close()
    references = [Entrant(process) for process in [*hosts, *remotes]]
    lines = lines_of([*references, *entrants], log)
    figures, who = figures_of(lines)
    show(lines, console)
    details = facts | {
        "policy": options.policy,
        "prompts": [case.prompt for case in cases],
        "seeds": [case.seed for case in cases],
        "peer_versions": _versions(),
        "best": who,
        "standings": standings(lines),
        "rows": lines,
        "schedules": entry,
    }
    run.finish(figures, details, options.json, title=f"{source}, {options.steps} steps")
    pictures = [log.pictures(number) for number in range(PICTURED)]
    _draw(options, figures, details, [p for p in pictures if p])
    return 0


def _draw(
    options: Any, figures: dict[str, float], details: dict[str, Any], pictures: Sequence[Any]
) -> None:
    """Write the page and the pictures that were asked for."""
    lines = details["rows"]
    if options.html is not None:
        write_page(options.html, lines, figures, details, pictures)
    if options.png is not None:
        write_pngs(options.png, lines, len(details["prompts"]), details["steps"])


def _options() -> Any:
    built = parser(__doc__, quick="32 prompts, and less searching")
    built.add_argument("--env", default="shapes", help="whose pipeline, call and prompts these are")
    built.add_argument("--policy", default="shapes-ppo", help="ours, beside searched schedules")
    built.add_argument("--pipeline", help="Hub id or folder of another pipeline")
    built.add_argument("--steps", type=int, default=28, help="denoising steps of the reference")
    built.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line")
    built.add_argument("--count", type=int, help="how many prompts")
    built.add_argument("--call", metavar="JSON", help="further arguments of the pipeline call")
    built.add_argument("--only", nargs="+", metavar="NAME", help="these contenders alone")
    built.add_argument(
        "--schedules", type=Path, default=SCHEDULES, help="where searched schedules are kept"
    )
    built.add_argument("--resume", action="store_true", help="draw what the last run lacks")
    built.add_argument("--html", type=writable, metavar="FILE", help="write a page to this file")
    built.add_argument(
        "--png",
        type=writable,
        metavar="FILE",
        help="write the lines that count to this file, and all to one beside it",
    )
    built.add_argument(
        "--draw",
        type=Path,
        metavar="JSON",
        help="measure nothing, and draw --html and --png of an earlier run's result",
    )
    return built


def _whole_table(name: str, pipe: Any, steps: int) -> ScheduleTable | None:
    """Return a policy's schedules of the whole denoiser of a pipeline; None if it has others."""
    policy = load_policy(find_policy(name))
    whole = policy.manifest.sites == 1 and is_whole(policy.manifest.blocks)
    if not whole or policy.manifest.model != pipeline_identity(pipe)["model"]:
        return None
    return policy.tables.get(steps)


def _cases(file: Path | None, config: Any, count: int) -> list[Case]:
    """Read the prompts, those of the test part by default, and give each a seed."""
    texts = config.read_prompts("test") if file is None else file.read_text().splitlines()
    texts = [text for text in texts if text.strip()]
    if not 1 <= count <= len(texts):
        raise ConfigError(f"expected at least {count} prompts, received {len(texts)}")
    return [Case(text, config.seeds.test + number) for number, text in enumerate(texts[:count])]


def _calibrate(pipe: Any, case: Case, steps: int, call: dict[str, Any]) -> None:
    generator = torch.Generator("cpu").manual_seed(case.seed)
    pipe(case.prompt, num_inference_steps=steps, generator=generator, output_type="pt", **call)


def _versions() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in ("diffusers", "cache-dit"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    raise SystemExit(main())
