"""The tiny FluxPipeline of the zoo as tests draw with it, alone and under a controller."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.tiny import BLOCKS, CALL, DOUBLE_BLOCKS, PROMPTS, STEPS, build_tiny_pipe, draw
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller
from ditcache_rl.instrument import BlockRunner, RequestLog

__all__ = [
    "BLOCKS",
    "CALL",
    "DOUBLE_BLOCKS",
    "GUIDANCE",
    "PROMPTS",
    "STEPS",
    "assert_close",
    "build_tiny_pipe",
    "draw",
    "draw_under",
]

#: Further arguments of a call with two guidance branches.
GUIDANCE: dict[str, Any] = {"true_cfg_scale": 2.0, "negative_prompt": PROMPTS[1]}


def draw_under(
    pipe: Any,
    controller: Controller,
    *,
    sites: int = 1,
    blocks: str | None = None,
    cap_bytes: int | None = None,
    **call: Any,
) -> tuple[Tensor, RequestLog]:
    """Draw under a controller, with a cache of its own; return what came of it and its log."""
    logs: list[RequestLog] = []
    cache = TieredCache(cap_bytes)
    with BlockRunner(pipe, controller, cache, sites=sites, blocks=blocks, on_finish=logs.append):
        latents = draw(pipe, **call)
    (log,) = logs
    assert cache.used_bytes == 0
    return latents, log


def assert_close(latents: Tensor, expected: Tensor) -> None:
    """Check that latents are equal up to the order of summation.

    A smaller batch is summed in another order, and a forecast multiplies that by weights of about
    5. Latents are of order 1; a wrong residual changes them by more than 1e-3.
    """
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
