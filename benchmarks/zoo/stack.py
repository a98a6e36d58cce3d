"""Caching beside the rest of the stack, measured on the embedded pipeline."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from ditcache_rl.cache import TieredCache
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.control import EveryK, StaticSchedule
from ditcache_rl.errors import ArtifactError
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.metrics import psnr_db
from ditcache_rl.pipelines import check_identity, open_pipeline
from ditcache_rl.pipelines.compress import quantize_weights
from ditcache_rl.policy import Policy, load_policy
from ditcache_rl.rl.retarget import retarget

STEPS = 28
#: Every third step computes: a compute share that policies reach at high quality.
PERIOD = 3
BUDGETS = (0.22, 0.33, 0.5)


def compile_figures(*, pairs: int) -> dict[str, float]:
    """Measure caching and compiled blocks, alone and together."""
    config = load_env("shapes")
    call = config.pipeline.call
    plain, compiled = open_pipeline("builtin:shapes"), open_pipeline("builtin:shapes")
    compiled.transformer.compile_repeated_blocks(dynamic=False)
    torch._dynamo.reset()

    def seconds(pipe: Any, cached: bool) -> float:
        controller = EveryK(PERIOD) if cached else EveryK(1)
        if not cached:
            return _timed(pipe, call)
        with BlockRunner(pipe, controller, TieredCache()):
            return _timed(pipe, call)

    kinds = [(plain, False), (plain, True), (compiled, False), (compiled, True)]
    for kind in kinds:
        seconds(*kind)  # compiles, and warms up
    times = [[seconds(*kind) for kind in kinds] for _ in range(pairs)]
    base, cache, compile_, both = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "compile_x": base / compile_,
        "compile_cache_x": base / cache,
        "compile_together_x": base / both,
        "compile_product_share": (base / both) / ((base / cache) * (base / compile_)),
    }


def _timed(pipe: Any, call: dict[str, Any]) -> float:
    started = time.perf_counter()
    pipe(
        "a large plain red star at left on a white background",
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **call,
    )
    return time.perf_counter() - started


def int8_figures(*, prompts: int) -> dict[str, float]:
    """Recalibrate the shipped policy for int8 weights, and compare what it loses."""
    config = load_env("shapes")
    policy = load_policy(find_policy("shapes-ppo"))
    full, int8 = open_pipeline("builtin:shapes"), open_pipeline("builtin:shapes")
    quantize_weights(int8.transformer, "int8")
    try:
        check_identity(policy.manifest, int8)
    except ArtifactError:
        refused = 1
    else:
        refused = 0
    started = time.perf_counter()
    fresh = retarget(policy, int8, config)
    took = time.perf_counter() - started
    check_identity(fresh.manifest, int8)
    texts = config.read_prompts("test")[:prompts]
    at_full = _qualities(full, policy, texts, config.pipeline.call)
    at_int8 = _qualities(int8, fresh, texts, config.pipeline.call)
    return {
        "int8_refused_count": refused,
        "int8_retarget_s": took,
        "int8_gap_db": float(np.mean(at_full) - np.mean(at_int8)),
    }


def _qualities(pipe: Any, policy: Policy, prompts: list[str], call: dict[str, Any]) -> list[float]:
    """Return the PSNR of the static schedules against full compute, by budget."""
    reference = _images(pipe, prompts, call)
    found = []
    for budget in BUDGETS:
        controller = PolicyController(policy, Target(budget=budget), adaptive=False)
        chosen = controller.choose(policy.tables[STEPS].sigmas)
        assert isinstance(chosen, StaticSchedule)
        sites, blocks = policy.manifest.sites, policy.manifest.blocks
        with BlockRunner(pipe, chosen, TieredCache(), sites=sites, blocks=blocks):
            found.append(float(psnr_db(_images(pipe, prompts, call), reference).mean()))
    return found


def _images(pipe: Any, prompts: list[str], call: dict[str, Any]) -> torch.Tensor:
    images: torch.Tensor = pipe(
        prompts,
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        output_type="pt",
        **call,
    ).images
    return images.float()
