"""Open the pipeline that an environment names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ditcache_rl.config import PipelineConfig
from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.files import is_there
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.pipelines.compress import check_quantization, prune_blocks, quantize_weights
from ditcache_rl.shapes import PIPELINES

BUILTIN = "builtin:shapes"
#: What an error says that a source may be.
_SOURCES = f"{' or '.join(f'builtin:{name}' for name in PIPELINES)}, a pipeline folder or a Hub id"
#: In which denoisers compute.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def open_configured(config: PipelineConfig) -> Any:
    """Open the pipeline that an environment file names.

    Raises:
        ConfigError: As `open_pipeline`, or if it takes no such arguments.
    """
    return _taking(config, open_pipeline(config.source, **_options(config)))


def open_shared(config: PipelineConfig) -> Any:
    """Do what `open_configured` does, and return the same pipeline as long as the same is named.

    Nobody may change it: whoever attaches takes a `twin`.
    """
    return _taking(config, _open_once(config.source, **_options(config)))


def _taking(config: PipelineConfig, pipe: Any) -> Any:
    """Return a pipeline that takes the arguments of an environment."""
    parameters = inspect.signature(pipe.__call__).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        for name in config.call.keys() - parameters.keys():
            raise ConfigError(
                f"[pipeline] call: {type(pipe).__name__} takes no {name!r}."
                f"{closest(name, parameters)}"
            )
    return pipe


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
        ConfigError: If the dtype is unknown, the device not here, the pipeline cannot be opened, or
            it can't be compressed like that.
    """
    from diffusers import DiffusionPipeline

    kind = getattr(torch, dtype, None)
    if kind not in _DTYPES:
        raise ConfigError(
            f"[pipeline] dtype must name a torch dtype as 'float32', received {dtype!r}"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    check_quantization(quantize)
    folder = folder_of(source)
    try:
        with _without_bars():
            pipe = DiffusionPipeline.from_pretrained(folder, dtype=kind)
    except Exception as error:  # whatever the libraries make of a damaged folder
        near = "" if is_there(Path(folder), folder=True) else " (no such folder here)"
        raise ConfigError(
            f"[pipeline] source must be {_SOURCES}, received {source!r}{near}: {error}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(device)
    prune_blocks(pipe, prune)
    for denoiser in denoisers_of(pipe).values():
        quantize_weights(denoiser, quantize)
    return pipe


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the bars away that show how files of this machine are read; downloads keep theirs."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [one for one in (of_diffusers, of_transformers) if one.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def folder_of(source: str) -> str:
    """Return what diffusers takes for a source: the folder of an embedded one, else the same."""
    kind, _, name = source.partition(":")
    return str(PIPELINES.get(name, source)) if kind == "builtin" else source


def open_scheduler(source: str) -> Any:
    """Open the scheduler of a pipeline alone.

    Args:
        source: `builtin:shapes`, a folder, or a Hub id.

    Raises:
        ConfigError: If it cannot be opened.
    """
    import diffusers

    folder = folder_of(source)
    try:
        _, name = diffusers.DiffusionPipeline.load_config(folder)["scheduler"]
        return getattr(diffusers, name).from_pretrained(folder, subfolder="scheduler")
    except Exception as error:  # whatever the libraries make of a damaged folder
        raise ConfigError(
            f"expected {_SOURCES} with a scheduler of diffusers, received {source!r}: {error}"
        ) from error


def _check_device(device: str) -> None:
    try:
        kind = torch.empty(0, device=device).device.type
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch is built without CUDA
        why = str(error).partition("\n")[0]
    else:
        why = "it holds no numbers" if kind == "meta" else ""
    if why:
        raise ConfigError(
            f"[pipeline] device must be auto, or one of this machine as 'cpu', received {device!r}:"
            f" {why}"
        )


_open_once = lru_cache(maxsize=1)(open_pipeline)
