"""Read off a pipeline's call how many samples it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

#: Arguments that multiply the prompts.
_COPIES = (
    "num_images_per_prompt",
    "num_videos_per_prompt",
    "num_waveforms_per_prompt",
    "num_audio_per_prompt",
)
#: Arguments with one entry per prompt, the most telling first.
_PER_PROMPT = ("prompt", "prompt_embeds", "class_labels", "image", "image_embeds")


def rows_of_call(
    plain: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> int | None:
    """Return the samples that a call asks for; None where that can't be told.

    The batch of a denoiser may hold several guidance branches: this tells how many rows are one.

    Args:
        plain: `__call__` of the pipeline's class.
        args: Positional arguments, without the pipeline.
        kwargs: Keyword arguments.
    """
    if args:
        kwargs = dict(zip(_parameters(plain), args, strict=False)) | dict(kwargs)
    generator = kwargs.get("generator")
    if isinstance(generator, list) and len(generator) > 1:
        return len(generator)
    latents = kwargs.get("latents")
    if isinstance(latents, Tensor):
        return len(latents)
    copies = next((kwargs[name] for name in _COPIES if kwargs.get(name)), 1)
    for name in _PER_PROMPT:
        count = _count(kwargs.get(name))
        if count is not None:
            return count * int(copies)
    return None


def _count(value: Any) -> int | None:
    if isinstance(value, str) or hasattr(value, "convert"):  # a prompt, or a PIL image
        return 1
    if isinstance(value, list | tuple) and value:
        return len(value)
    return len(value) if isinstance(value, Tensor) and value.ndim > 1 else None


@lru_cache(maxsize=256)
def _parameters(plain: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(plain).parameters)[1:]
