"""Draw images of cases on a pipeline, as it is or under a controller."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller
from ditcache_rl.errors import ConfigError, UnsupportedModelError, as_written
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.machine import synchronize


class Case(NamedTuple):
    """One image to draw."""

    prompt: str
    seed: int


class Drawn(NamedTuple):
    """What one call of a pipeline made, and what it took."""

    images: Tensor
    """(cases, 3, H, W) float32 in [0, 1], on the CPU; frames of a video lie below each other."""
    log: RequestLog | None
    """What was done at every step; None without a controller."""
    seconds: float
    """Of the pipeline's call alone: a server attaches once."""


def draw(
    pipe: Any,
    cases: Sequence[Case],
    controller: Controller | None = None,
    *,
    steps: int,
    call: Mapping[str, Any],
    sites: int = 1,
    blocks: str | None = None,
    cache: TieredCache | None = None,
) -> Drawn:
    """Call a pipeline once.

    Args:
        pipe: Used as it is and left as it was.
        cases: What to draw, one row each.
        controller: Decides at every step; None runs the pipeline as it is.
        steps: Denoising steps.
        call: Further arguments of the call.
        sites: Parts of the block stack that the controller decides about.
        blocks: Where the blocks are, as in `BlockRunner`; None to find them.
        cache: Where residuals are kept; a new one without caps by default.

    Raises:
        ConfigError: If the pipeline refuses the arguments before a controller hears of anything;
            the first call of a pipeline should be under one.
    """
    logs: list[RequestLog] = []
    generators = [torch.Generator("cpu").manual_seed(case.seed) for case in cases]
    attached: AbstractContextManager[object] = nullcontext()
    if controller is not None:
        attached = BlockRunner(
            pipe,
            controller,
            cache or TieredCache(),
            sites=sites,
            blocks=blocks,
            on_finish=logs.append,
        )
    with attached:
        synchronize()
        started = time.perf_counter()
        try:
            images = called(
                pipe,
                [case.prompt for case in cases],
                generator=generators,
                num_inference_steps=steps,
                call=call,
            )
        except (TypeError, ValueError, OverflowError) as error:
            if controller is None or logs:  # it denoised, so the arguments are not to blame
                raise
            raise ConfigError(
                f"[pipeline] call: expected arguments that {type(pipe).__name__} takes, received "
                f"{as_written(call)}: {error}"
            ) from error
        synchronize()
        seconds = time.perf_counter() - started
    return Drawn(images.float().cpu(), logs[0] if logs else None, seconds)


def called(pipe: Any, prompt: str | list[str], *, call: Mapping[str, Any], **own: Any) -> Tensor:
    """Call a pipeline, and return its images: (B, 3, H, W), or (B, 3, frames * H, W) of a video.

    Args:
        pipe: Used as it is.
        prompt: One, or one per image.
        call: Arguments of the environment; a prompt that all images shall avoid is said to each.
        own: Arguments of whoever draws.

    Raises:
        UnsupportedModelError: If what it makes is neither.
    """
    avoided = {
        name: [value] * len(prompt)
        for name, value in call.items()
        if name.startswith("negative_prompt")
        and isinstance(value, str)
        and isinstance(prompt, list)
    }
    try:
        output = pipe(prompt, output_type="pt", **own, **{**call, **avoided})
    except BaseException:
        # A call that is left does not come to its end, where pipelines offload what they loaded.
        if hasattr(pipe, "maybe_free_model_hooks"):
            pipe.maybe_free_model_hooks()
        raise
    if hasattr(output, "images"):
        images: Tensor = output.images
        return images
    if not hasattr(output, "frames"):
        raise UnsupportedModelError(
            f"expected a pipeline that draws images or videos, received {type(pipe).__name__}, "
            f"which returns {', '.join(output)}"
        )
    frames: Tensor = output.frames
    return frames.transpose(1, 2).flatten(2, 3)
