"""Open the pipeline that an environment names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ditcache_rl.config import PipelineConfig
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.pipelines.compress import prune_blocks, quantize_weights

BUILTIN = "builtin:shapes"


def open_configured(config: PipelineConfig) -> Any:
    """Open the pipeline that an environment file names; errors are those of `open_pipeline`."""
    return open_pipeline(config.source, **_options(config))


def open_shared(config: PipelineConfig) -> Any:
    """Do what `open_configured` does, and return the same pipeline as long as the same is named.

    Nobody may change it: whoever attaches takes a `twin`.
    """
    return _open_once(config.source, **_options(config))


def _options(config: PipelineConfig) -> dict[str, Any]:
    return {
        "dtype": config.dtype,
        "device": config.device,
        "quantize": config.quantize,
        "prune": tuple(config.prune),
    }


def open_pipeline(
    source: str,
    *,
    dtype: str = "float32",
    device: str = "auto",
    quantize: str = "",
    prune: Sequence[str] = (),
) -> Any:
    """Open a diffusers pipeline.

    Args:
        source: `builtin:shapes`, a folder, or a Hub id.
        dtype: Name of a torch floating-point dtype.
        device: Torch device; `auto` takes the GPU where there is one.
        quantize: Of the denoiser, see `quantize_weights`; "" for none.
        prune: Blocks of the denoiser that are left out, see `prune_blocks`.

    Raises:
        ConfigError: If the dtype is unknown, the pipeline cannot be opened, or it can't be
            compressed like that.
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
    prune_blocks(pipe, prune)
    if quantize:
        for denoiser in denoisers_of(pipe).values():
            quantize_weights(denoiser, quantize)
    return pipe


_open_once = lru_cache(maxsize=1)(open_pipeline)
