"""First steps at half the resolution, brought to the full grid bilinearly or by a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from benchmarks.precision.drawn import IMAGES, STEPS, interleaved, score, timed
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.cache import TieredCache
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.extras.coarse import coarse_steps
from ditcache_rl.extras.train_upscaler import draw_pairs, gain_db
from ditcache_rl.extras.upscaler import Upscaler, load_upscaler
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.shapes import UPSCALER

COARSE = (1, 2, 3, 5)
#: Prompts and coarse steps of the picture, and how much stronger errors are drawn than they are.
DRAWN, DRAWN_STEPS, AMPLIFIED = 4, 3, 8


def coarse_first_steps(board: Board, config: EnvConfig, schedule: StaticSchedule) -> dict[str, Any]:
    """Judge the network on pairs, and coarse steps by images and times, alone and on a schedule."""
    cases = cases_of(config, "test")
    net = load_upscaler(UPSCALER)
    gain = gain_db(net, draw_pairs(board.pipe, config.pipeline.call, cases))
    everything = StaticSchedule.of(np.zeros((STEPS, 1), dtype=np.int8))
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
            quality[name] = score(board, controller, cases[:IMAGES])
    gains = [
        quality[f"computed, {count} network"] - quality[f"computed, {count} bilinear"]
        for count in COARSE
    ]

    def call(name: str) -> Callable[[Case], float]:
        controller, count, upscaler = settings[name]
        runner = BlockRunner(board.pipe, controller, TieredCache(), blocks=config.cache.blocks)

        def clocked(case: Case) -> float:
            with coarse_steps(board.pipe, count, upscaler=upscaler):
                return timed(board, runner, case)

        return clocked

    seconds = interleaved({name: call(name) for name in settings}, cases)
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
            images = board.draw(cases).images
        columns += [images, (AMPLIFIED * (images - reference).abs()).clamp(max=1)]
    rows = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)
    picture = Image.fromarray((255 * rows.permute(1, 2, 0)).round().byte().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)
