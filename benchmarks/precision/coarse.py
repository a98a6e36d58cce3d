"""First steps at half the resolution, brought to the full grid bilinearly or by a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from benchmarks.precision.drawn import IMAGES, STEPS, interleaved
from ditcache_rl.bench import Board, Case, Drawn, cases_of
from ditcache_rl.cache import TieredCache
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.extras.train_upscaler import draw_pairs, gain_db
from ditcache_rl.instrument import BlockRunner, Upscaler, load_upscaler
from ditcache_rl.schedules import Schedule
from ditcache_rl.shapes import UPSCALER

COARSE = (1, 2, 3, 5)
#: Prompts and coarse steps of the picture, and how much stronger errors are drawn than they are.
DRAWN, DRAWN_STEPS, AMPLIFIED = 4, 3, 8
#: Full compute.
_EVERYTHING = Schedule(np.zeros((STEPS, 1), dtype=np.int8))


class CoarseRun(NamedTuple):
    """A schedule whose first steps are computed at half the resolution."""

    schedule: Schedule
    steps: int = 0
    upscaler: Upscaler | None = None

    def draw(self, board: Board, cases: Sequence[Case]) -> Drawn:
        """Call the pipeline once; attaching is not in the time."""
        with BlockRunner(
            board.pipe,
            StaticSchedule(self.schedule),
            TieredCache(),
            sites=board.sites,
            blocks=board.blocks,
            coarse_steps=self.steps,
            upscaler=self.upscaler,
        ):
            return board.draw(cases)


def coarse_first_steps(board: Board, config: EnvConfig, schedule: Schedule) -> dict[str, Any]:
    """Judge the network on pairs, and coarse steps by images and times, alone and on a schedule."""
    cases = cases_of(config, "test")
    net = load_upscaler(UPSCALER)
    gain = gain_db(net, draw_pairs(board.pipe, config.pipeline.call, cases))
    runs: dict[str, CoarseRun] = {}
    for name, followed in (("computed", _EVERYTHING), ("schedule", schedule)):
        runs[name] = CoarseRun(followed)
        for count in COARSE:
            runs[f"{name}, {count} bilinear"] = CoarseRun(followed, count)
            runs[f"{name}, {count} network"] = CoarseRun(followed, count, net)
    quality = {
        name: _score(board, run, cases[:IMAGES])
        for name, run in track(runs.items(), "coarse steps")
    }
    gains = [
        quality[f"computed, {count} network"] - quality[f"computed, {count} bilinear"]
        for count in COARSE
    ]

    def call(run: CoarseRun) -> Callable[[Case], float]:
        return lambda case: run.draw(board, [case]).seconds

    seconds = interleaved({name: call(run) for name, run in runs.items()}, cases)
    return {
        "sr_over_bilinear_db": gain,
        "sr_over_bilinear_image_db": float(np.mean(gains)),
        "settings": {name: {"seconds": seconds[name], "psnr_db": quality[name]} for name in runs},
    }


def _score(board: Board, run: CoarseRun, cases: Sequence[Case]) -> float:
    """Return the mean PSNR, in dB."""
    parts = [cases[start : start + board.rows] for start in range(0, len(cases), board.rows)]
    found = [board.judge(run.draw(board, part).images, part).psnr_db for part in parts]
    return float(np.concatenate(found).mean())


def draw_coarse(board: Board, config: EnvConfig, path: Path) -> None:
    """Draw test prompts with coarse steps: reference, bilinear and network beside their errors."""
    cases = cases_of(config, "test")[:DRAWN]
    reference = board.references(cases)
    columns = [reference]
    for upscaler in (None, load_upscaler(UPSCALER)):
        images = CoarseRun(_EVERYTHING, DRAWN_STEPS, upscaler).draw(board, cases).images
        columns += [images, (AMPLIFIED * (images - reference).abs()).clamp(max=1)]
    lines = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)
    picture = Image.fromarray((255 * lines.permute(1, 2, 0)).round().byte().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)
