"""Open the pipeline that an environment names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.blocks import denoisers_of

BUILTIN = "builtin:shapes"
#: Kinds of quantized weights, and what torchao calls them.
_WEIGHTS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}


def open_pipeline(
    source: str, *, dtype: str = "float32", device: str = "auto", quantize: str = ""
) -> Any:
    """Open a diffusers pipeline.

    Args:
        source: `builtin:shapes`, a folder, or a Hub id.
        dtype: Name of a torch floating-point dtype.
        device: Torch device; `auto` takes the GPU where there is one.
        quantize: `int8` or `fp8` for the weights of the denoiser's linear layers.

    Raises:
        ConfigError: If the dtype is unknown, the pipeline cannot be opened, or torchao is missing.
    """
    from diffusers import DiffusionPipeline

    from ditcache_rl.shapes import PIPELINE_DIR

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ConfigError(
            f"[pipeline] dtype must name a torch dtype as 'float32', received {dtype!r}"
        )
    folder = str(PIPELINE_DIR) if source == BUILTIN else source
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=kind)
    except (OSError, ValueError) as error:
        near = "" if Path(folder).is_dir() else " (no such folder here)"
        raise ConfigError(
            f"[pipeline] source must be {BUILTIN!r}, a pipeline folder or a Hub id, "
            f"received {source!r}{near}: {error}"
        ) from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(device)
    if quantize:
        for denoiser in denoisers_of(pipe).values():
            quantize_weights(denoiser, quantize)
    return pipe


def quantize_weights(denoiser: nn.Module, kind: str) -> None:
    """Quantize the linear layers of a denoiser in place.

    Raises:
        ConfigError: If the kind is unknown or torchao is not installed.
    """
    if kind not in _WEIGHTS:
        names = ", ".join(repr(name) for name in ("", *_WEIGHTS))
        raise ConfigError(f"[pipeline] quantize must be one of {names}, received {kind!r}")
    try:
        from torchao import quantization
    except ImportError as error:
        raise ConfigError(
            f"[pipeline] quantize = {kind!r} needs torchao: pip install 'ditcache-rl[quantize]'"
        ) from error
    quantization.quantize_(denoiser, getattr(quantization, _WEIGHTS[kind])())
