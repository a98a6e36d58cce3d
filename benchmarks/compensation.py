"""What makes up for precision that was given up, and what compression and caching give together.

Forecasts: one schedule of at least 3x, and one of evenly spaced steps, whose skipped steps are
estimated in several ways. The best way is chosen on select prompts and reported on test prompts.
Coarse steps: the first steps at half the resolution, brought to the full grid bilinearly or by the
trained network, which is also judged on pairs of estimates of test prompts.
Compression: quantized weights, a block left out (the one that hurts least on train prompts), and a
cached schedule, in all combinations, against the image of the whole model in full precision. Times
are medians of single calls, settings interleaved.
"""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from rich.table import Table

from ditcache_rl.bench import Board, Case, board_of, budget_of, cases_of
from ditcache_rl.cache import TieredCache
from ditcache_rl.config import EnvConfig, find_policy, load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.extras.coarse import coarse_steps
from ditcache_rl.extras.train_upscaler import draw_pairs, gain_db
from ditcache_rl.extras.upscaler import Upscaler, load_upscaler
from ditcache_rl.inference import open_policy
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.metrics import psnr_db
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.policy import Policy
from ditcache_rl.schedules.forecast import newton_weights, row_of
from ditcache_rl.schedules.patterns import step_patterns
from ditcache_rl.search import Rollouts, Space
from ditcache_rl.shapes import UPSCALER
from ditcache_rl.types import HISTORY, Floats, Mode, Modes

if TYPE_CHECKING:
    from benchmarks._report import Run, console, parser
else:
    from _report import Run, console, parser

STEPS = 28
#: Share of the steps that the schedule computes: measured 3.3x on two cores.
SHARE = 0.25
IMAGES = 32
#: Prompts that weights are fitted on, and that blocks are tried on.
FITTED, TRIED = 16, 8
COARSE = (1, 2, 3, 5)
#: Prompts and coarse steps of the picture, and how much stronger errors are drawn than they are.
DRAWN, DRAWN_STEPS, AMPLIFIED = 4, 3, 8
#: Calls per setting; the first one is not counted.
CALLS = 9
QUANTIZED = ("", "int8", "int8-dynamic")
#: What a forecast adds to the newest residual is multiplied by this.
DAMPED = 0.7


def main() -> None:
    """Measure all, and report."""
    built = parser(__doc__)
    built.add_argument("--picture", type=Path, metavar="FILE", help="draw coarse steps to this PNG")
    options = built.parse_args()
    run = Run()
    config = load_env("shapes")
    pipe = open_pipeline(config.pipeline.source, device=config.pipeline.device)
    board = board_of(config, pipe, steps=STEPS)
    policy = open_policy(find_policy("shapes-ppo"))
    assert isinstance(policy, Policy)
    row = policy.plans[STEPS].row(budget_of(SHARE, STEPS))
    schedule = step_patterns(1)[row.patterns]
    found = forecasts(board, config, schedule)
    ways = found["policy"]
    best = max(ways, key=lambda way: ways[way]["select_db"])
    coarse = coarse_first_steps(board, config, StaticSchedule.of(row, step_patterns(1)))
    if options.picture is not None:
        draw_coarse(board, config, options.picture)
    compressed = compression(config, StaticSchedule.of(row, step_patterns(1)))
    seconds = {name: entry["seconds"] for name, entry in compressed["settings"].items()}
    plain = seconds["full"]
    figures = {
        "best_over_reuse_db_3x": ways[best]["test_db"] - ways["reuse"]["test_db"],
        "sr_over_bilinear_db": coarse["sr_over_bilinear_db"],
        "sr_over_bilinear_image_db": coarse["sr_over_bilinear_image_db"],
        "int8_cache_speedup_x": plain / seconds["int8-dynamic + cache"],
        "int8_speedup_x": plain / seconds["int8-dynamic"],
        "cache_speedup_x": plain / seconds["cache"],
        "pruned_speedup_x": plain / seconds["pruned"],
        "all_speedup_x": plain / seconds["int8-dynamic + pruned + cache"],
    }
    details = {"best": best, "forecasts": found, "coarse": coarse, "compression": compressed}
    _show("forecast", {f"{m}: {w}": found[m][w] for m in found for w in found[m]})
    _show("coarse steps", coarse["settings"])
    _show("compression", compressed["settings"])
    run.finish(figures, details, options.json, title="compensation")


def forecasts(board: Board, config: EnvConfig, schedule: Modes) -> dict[str, Any]:
    """Draw schedules with every way to estimate what they skip: PSNR in dB by schedule and way."""
    computes = int((schedule == Mode.COMPUTE).sum())
    every = np.linspace(0, STEPS - 1, computes).round().astype(int)
    masks = {"policy": np.flatnonzero(schedule[:, 0] == Mode.COMPUTE), "even": every}
    rollouts = Rollouts(board, cases_of(config, "train")[:FITTED])
    sigmas = board.sigmas()
    parts = {part: cases_of(config, part)[:IMAGES] for part in ("select", "test")}
    found: dict[str, Any] = {}
    for name, nodes in masks.items():
        ways = {way: _table(sigmas, nodes, weigh) for way, weigh in WAYS.items()}
        ways["fitted"] = rollouts.weights(tuple(nodes.tolist()))
        modes = Space(STEPS, 1).modes(row_of(tuple(nodes.tolist()), STEPS))
        found[name] = {
            way: {
                f"{part}_db": float(_score(board, cases, StaticSchedule(modes, table)))
                for part, cases in parts.items()
            }
            for way, table in track(ways.items(), f"forecasts, {name} schedule")
        }
    return found


def _newton(order: int) -> Callable[[Floats, float, float], Floats]:
    return lambda known, sigma, after: newton_weights(known, sigma, min(order, len(known) - 1))


def _damped(known: Floats, sigma: float, after: float) -> Floats:
    reuse = newton_weights(known, sigma, 0)
    return reuse + DAMPED * (_newton(1)(known, sigma, after) - reuse)


def _average(known: Floats, sigma: float, after: float) -> Floats:
    """Forecast in the middle of the step: the average velocity over it, of a line."""
    return _newton(1)(known, (sigma + after) / 2, after)


#: Weights of past residuals, from their noise levels, that of the step and that of the next one.
WAYS: dict[str, Callable[[Floats, float, float], Floats]] = {
    "reuse": _newton(0),
    "order 1 (two anchors)": _newton(1),
    "order 2": _newton(2),
    "order 1, damped": _damped,
    "average velocity": _average,
}


def _table(sigmas: Floats, nodes: Any, weigh: Callable[[Floats, float, float], Floats]) -> Floats:
    """Write the weights of a schedule: (steps, HISTORY), nan at computed steps."""
    table = np.full((STEPS, HISTORY), np.nan)
    for step in sorted(set(range(STEPS)) - set(nodes.tolist())):
        known = sigmas[[node for node in nodes if node < step][::-1][:HISTORY]]
        table[step] = weigh(known, float(sigmas[step]), float(sigmas[step + 1]))
    return table


def _score(board: Board, cases: Sequence[Case], controller: StaticSchedule) -> float:
    images = [
        board.draw_under(controller, cases[start : start + board.rows])[0]
        for start in range(0, len(cases), board.rows)
    ]
    return float(board.judge(torch.cat(images), cases).psnr_db.mean())


def coarse_first_steps(board: Board, config: EnvConfig, schedule: StaticSchedule) -> dict[str, Any]:
    """Judge the network on pairs, and coarse steps by images and times, alone and on a schedule."""
    cases = cases_of(config, "test")
    net = load_upscaler(UPSCALER)
    gain = gain_db(net, draw_pairs(board.pipe, config.pipeline.call, cases))
    everything = StaticSchedule(np.zeros((STEPS, 1), dtype=np.int8))
    settings: dict[str, tuple[StaticSchedule, int, Upscaler | None]] = {}
    for name, controller in (("computed", everything), ("schedule", schedule)):
        settings[name] = controller, 0, None
        for count in COARSE:
            settings[f"{name}, {count} bilinear"] = controller, count, None
            settings[f"{name}, {count} network"] = controller, count, net
    board.prepare(cases[:IMAGES])  # a reference that is drawn under coarse steps is coarse too
    quality = {}
    for name, (controller, count, upscaler) in track(settings.items(), "coarse steps"):
        with coarse_steps(board.pipe, count, upscaler=upscaler):
            quality[name] = _score(board, cases[:IMAGES], controller)
    gains = [
        quality[f"computed, {count} network"] - quality[f"computed, {count} bilinear"]
        for count in COARSE
    ]

    def call(name: str) -> Callable[[Case], float]:
        controller, count, upscaler = settings[name]
        runner = BlockRunner(board.pipe, controller, TieredCache(), blocks=config.cache.blocks)

        def timed(case: Case) -> float:
            with coarse_steps(board.pipe, count, upscaler=upscaler):
                return _timed(board, runner, case)

        return timed

    seconds = _interleaved({name: call(name) for name in settings}, cases)
    return {
        "sr_over_bilinear_db": gain,
        "sr_over_bilinear_image_db": float(np.mean(gains)),
        "settings": {n: {"seconds": seconds[n], "psnr_db": quality[n]} for n in settings},
    }


def draw_coarse(board: Board, config: EnvConfig, path: Path) -> None:
    """Draw test prompts with coarse steps: reference, bilinear and network beside their errors."""
    cases = cases_of(config, "test")[:DRAWN]
    reference = board.references(cases)
    columns = [reference]
    for upscaler in (None, load_upscaler(UPSCALER)):
        with coarse_steps(board.pipe, DRAWN_STEPS, upscaler=upscaler):
            images = board.draw(cases)
        columns += [images, (AMPLIFIED * (images - reference).abs()).clamp(max=1)]
    rows = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)
    picture = Image.fromarray((255 * rows.permute(1, 2, 0)).round().byte().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)


def compression(config: EnvConfig, schedule: StaticSchedule) -> dict[str, Any]:
    """Draw and time every combination of quantized weights, a block less and a schedule."""
    source, cases = config.pipeline.source, cases_of(config, "test")
    whole = board_of(config, open_pipeline(source, device="cpu"), steps=STEPS)
    harms = _harms(config, whole)
    pruned = max(harms, key=lambda path: harms[path])
    reference = whole.references(cases[:IMAGES])
    settings: dict[str, dict[str, float]] = {}
    calls: dict[str, Callable[[Case], float]] = {}
    for kind, block in track(list(itertools.product(QUANTIZED, ("", pruned))), "compression"):
        pipe = open_pipeline(source, device="cpu", quantize=kind, prune=[block] if block else [])
        board = board_of(config, pipe, steps=STEPS)
        for cached in (False, True):
            words = [kind, "pruned" if block else "", "cache" if cached else ""]
            name = " + ".join(word for word in words if word) or "full"
            runner = BlockRunner(pipe, schedule, TieredCache(), blocks=config.cache.blocks)
            part = cases[:IMAGES]
            images = board.draw_under(schedule, part)[0] if cached else board.draw(part)
            settings[name] = {
                "psnr_db": float(psnr_db(images, reference).mean()),
                "weights_bytes": float(_weights_bytes(pipe.transformer)),
            }
            calls[name] = _timer(board, runner if cached else None)
    seconds = _interleaved(calls, cases)
    for name, entry in settings.items():
        entry["seconds"] = seconds[name]
    return {"pruned": pruned, "without_block_db": harms, "settings": settings}


def _harms(config: EnvConfig, whole: Board) -> dict[str, float]:
    """Return the PSNR that is left without each block, on a few train prompts."""
    cases = cases_of(config, "train")[:TRIED]
    sizes = {
        name: len(getattr(whole.pipe.transformer, name))
        for name in ("transformer_blocks", "single_transformer_blocks")
    }
    paths = [f"transformer.{name}.{i}" for name, size in sizes.items() for i in range(size)]
    harms = {}
    for path in track(paths, "blocks"):
        pipe = open_pipeline(config.pipeline.source, device="cpu", prune=[path])
        images = board_of(config, pipe, steps=STEPS).draw(cases)
        harms[path] = float(whole.judge(images, cases).psnr_db.mean())
    return harms


def _weights_bytes(denoiser: Any) -> int:
    """Return what the weights take when they are stored; packed ones are no parameters."""
    buffer = io.BytesIO()
    torch.save(denoiser.state_dict(), buffer)
    return buffer.tell()


def _timer(board: Board, runner: BlockRunner | None) -> Callable[[Case], float]:
    return lambda case: _timed(board, runner, case)


def _timed(board: Board, runner: BlockRunner | None, case: Case) -> float:
    """Return the seconds of one call; attaching is outside of the clock."""
    if runner is not None:
        with runner:
            return _timed(board, None, case)
    started = time.perf_counter()
    board.draw([case])
    return time.perf_counter() - started


def _interleaved(
    calls: Mapping[str, Callable[[Case], float]], cases: Sequence[Case]
) -> dict[str, float]:
    """Return the median seconds of every setting."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for case in track(cases[: CALLS + 1], "times"):
        for name, call in calls.items():
            times[name].append(call(case))
    return {name: statistics.median(seen[1:]) for name, seen in times.items()}


def _show(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    built = Table(title, *names)
    for name, row in rows.items():
        built.add_row(name, *(f"{row[key]:.4g}" for key in names))
    console.print(built)


if __name__ == "__main__":
    main()
