"""Quantized weights, a block less and a cached schedule, in all combinations."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import track

from benchmarks.precision.drawn import IMAGES, STEPS, interleaved, timer
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.metrics import psnr_db
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.schedules import Schedule

#: Prompts that blocks are tried on.
TRIED = 8
QUANTIZED = ("", "int8", "int8-dynamic")


def compression(config: EnvConfig, schedule: Schedule) -> dict[str, Any]:
    """Draw and time every combination of quantized weights, a block less and a schedule."""
    source, cases = config.pipeline.source, cases_of(config, "test")
    whole = Board.of(config, open_pipeline(source, device="cpu"), steps=STEPS)
    harms = _harms(config, whole)
    pruned = max(harms, key=lambda path: harms[path])
    reference = whole.references(cases[:IMAGES])
    settings: dict[str, dict[str, float]] = {}
    calls: dict[str, Callable[[Case], float]] = {}
    for kind, block in track(list(itertools.product(QUANTIZED, ("", pruned))), "compression"):
        pipe = open_pipeline(source, device="cpu", quantize=kind, prune=[block] if block else [])
        board = Board.of(config, pipe, steps=STEPS)
        for cached in (False, True):
            words = [kind, "pruned" if block else "", "cache" if cached else ""]
            name = " + ".join(word for word in words if word) or "full"
            followed = schedule if cached else None
            controller = None if followed is None else StaticSchedule(followed)
            images = board.draw(cases[:IMAGES], controller).images
            settings[name] = {
                "psnr_db": float(psnr_db(images, reference).mean()),
                "weights_bytes": float(_weights_bytes(pipe.transformer)),
            }
            calls[name] = timer(board, followed)
    seconds = interleaved(calls, cases)
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
        images = Board.of(config, pipe, steps=STEPS).draw(cases).images
        harms[path] = float(whole.judge(images, cases).psnr_db.mean())
    return harms


def _weights_bytes(denoiser: Any) -> int:
    """Return what the weights take when they are stored; packed ones are no parameters."""
    buffer = io.BytesIO()
    torch.save(denoiser.state_dict(), buffer)
    return buffer.tell()
