"""What a transformer of a real size takes per step, plain, under the runner, and cached."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.zoo.published import PublishedModel, ShapeLoop
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, Controller, EasyCache, EveryK
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.machine import synchronize
from ditcache_rl.types import EntryKey, Tier

#: Denoising steps of a timed call, and timed calls of each kind.
STEPS, CALLS = 6, 3
#: Every third step computes where the cache is at work.
PERIOD = 3
#: Parts of the stack in the table of what pays, besides one per block.
SITES = (1, 4)


def examine(
    shape: PublishedModel,
    layers: Mapping[str, int],
    device: str,
    dtype: Any,
    *,
    compiled: bool = True,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure one shape: figures and details."""
    pipe = ShapeLoop(shape, layers, device, dtype)
    blocks = len(find_blocks(pipe.transformer))
    plain = _step_s(pipe)
    weights = sum(p.numel() * p.element_size() for p in pipe.transformer.parameters())
    never = EasyCache(0.0)
    figures = {
        "step_s": plain,
        "runner_share": _step_s(pipe, AllCompute()) / plain - 1,
        "online_share": _step_s(pipe, never) / plain - 1,
        "reuse_step_s": _reuse_s(pipe, plain, None),
        "reuse_whole_step_s": _reuse_s(pipe, plain, "transformer"),
    }
    entry_bytes = _entry_bytes(pipe)
    table = [
        _pays(entry_bytes, plain / sites, sites, device)
        for sites in sorted({*(s for s in SITES if s <= blocks), blocks})
    ]
    for tier, cap in (("device", None), ("host", 0)):
        peak, hidden = _peak(pipe, min(SITES[-1], blocks), cap, 64 * entry_bytes)
        figures[f"peak_{tier}_bytes"] = peak
        if tier == "host":
            figures["hidden_share"] = hidden
    if compiled:
        cached = _step_s(pipe, EveryK(PERIOD))
        denoiser: Any = pipe.transformer
        denoiser.compile_repeated_blocks()
        figures["compile_x"] = plain / _step_s(pipe)
        figures["cache_x"] = plain / cached
        figures["compile_cache_x"] = plain / _step_s(pipe, EveryK(PERIOD))
    return figures, {
        "layers": dict(layers),
        "layers_published": {name: shape.config[name] for name in shape.layers},
        "weights_bytes": weights,
        "dtype": str(dtype),
        "entry_bytes": entry_bytes,
        "pays": table,
    }


def _step_s(pipe: ShapeLoop, controller: Controller | None = None, **options: Any) -> float:
    """Time calls, after one that warms up: median seconds per step."""

    def timed() -> float:
        synchronize(pipe.device)
        started = time.perf_counter()
        pipe(num_inference_steps=STEPS)
        synchronize(pipe.device)
        return (time.perf_counter() - started) / STEPS

    def all_calls() -> float:
        timed()
        return statistics.median(timed() for _ in range(CALLS))

    if controller is None:
        return all_calls()
    with BlockRunner(pipe, controller, TieredCache(), **options):
        return all_calls()


def _reuse_s(pipe: ShapeLoop, plain: float, blocks: str | None) -> float:
    """Time a step that reuses: all but the first of a call do."""
    per_step = _step_s(pipe, EveryK(STEPS), blocks=blocks)
    return (per_step * STEPS - plain) / (STEPS - 1)


def _entry_bytes(pipe: ShapeLoop) -> int:
    """Return the bytes of the residual of the whole stack."""
    cache = TieredCache()
    with BlockRunner(pipe, EveryK(STEPS), cache):
        pipe(num_inference_steps=2)
    return cache.stats.peak_bytes


def _pays(entry_bytes: int, site_s: float, sites: int, device: str) -> dict[str, float | bool]:
    """Compare loading the entry of a site from main memory with computing the site."""
    cache = TieredCache(0, 4 * entry_bytes, device=torch.device(device))
    key = EntryKey(0, 0, 0, 0)
    try:
        entry = torch.zeros(entry_bytes, dtype=torch.uint8, device=device)

        def load() -> None:
            assert cache.get(key) is not None

        kept = cache.put(key, entry, Tier.HOST)
        load_s = _median_s(load, torch.device(device)) if kept else float("inf")
    finally:
        cache.close()
    return {"sites": sites, "load_s": load_s, "site_s": site_s, "pays": load_s < site_s}


def _median_s(call: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _peak(
    pipe: ShapeLoop, sites: int, device_bytes: int | None, host_bytes: int
) -> tuple[int, float]:
    """Return most memory beyond the weights, and the hidden share of loads, of a cached call."""
    host = host_bytes if device_bytes == 0 else None
    cache = TieredCache(device_bytes, host, device=pipe.device)
    cuda = pipe.device.type == "cuda"
    try:
        with BlockRunner(pipe, EveryK(PERIOD), cache, sites=sites):
            synchronize(pipe.device)
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if cuda else 0
            pipe(num_inference_steps=STEPS)
            synchronize(pipe.device)
            peak = torch.cuda.max_memory_allocated() - before if cuda else cache.stats.peak_bytes
        return peak, cache.stats.hidden_share
    finally:
        cache.close()
