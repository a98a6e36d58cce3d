"""Look at a pipeline without its weights: what draws, how it is called, and what can be cached."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.instrument.blocks import DENOISER_NAMES, find_stack
from ditcache_rl.pipelines.open import folder_of
from ditcache_rl.pipelines.supported import supported_pipelines

#: What sizes a call, in the order in which people say it.
_SIZES = ("height", "width", "num_frames")
#: What a pipeline may want beside a prompt, which an environment file cannot give.
_PICTURES = ("image", "video", "control_image", "mask_image")
#: Makes two branches of a true guidance: without it diffusers' defaults draw unguided.
_NO_PROMPT = " "


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    """What a pipeline is, as far as its configs tell.

    Attributes:
        source: Folder or Hub id, as it was given.
        pipeline: Name of its class.
        denoisers: Class of each denoiser, by component.
        parameters: Numbers in all of them.
        stacks: Blocks of each denoiser, by their path; empty where only a forward pass can tell.
        scheduler: Name of its class.
        steps: Denoising steps of a call that names none; None if every call must.
        call: Arguments that a call should name: its size, and what guidance needs.
        examined: Whether a pipeline of this class passed every check; None if none was examined.
        notes: What to know before it is trained.
    """

    source: str
    pipeline: str
    denoisers: Mapping[str, str]
    parameters: int
    stacks: Mapping[str, int]
    scheduler: str
    steps: int | None
    call: Mapping[str, Any]
    examined: bool | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def pixels(self) -> int | None:
        """Pixels of an image, or of all frames of a video; None where no size is known."""
        sides = [self.call.get(name, 1 if name == "num_frames" else None) for name in _SIZES]
        return None if None in sides else math.prod(sides)


def look_at(source: str, *, call: Mapping[str, Any] = MappingProxyType({})) -> PipelineFacts:
    """Read the configs of a pipeline; of a Hub id these few kilobytes are all that is loaded.

    Args:
        source: `builtin:shapes`, a folder, or a Hub id.
        call: Arguments of its call that are known already; they come before its defaults.

    Raises:
        ConfigError: If there is no pipeline of diffusers, or one that is called without a prompt.
        UnsupportedModelError: If it has no denoiser that is known by name.
    """
    import diffusers

    folder, index = _read_index(source)
    name = str(index.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise ConfigError(
            f"expected a pipeline that this diffusers knows, received a {name} in {source!r}; "
            "write its environment by hand, from one of those that `ditcache-rl list envs` names"
        )
    parameters = inspect.signature(kind.__call__).parameters
    if not {"prompt", "num_inference_steps"} <= parameters.keys():
        raise ConfigError(
            f"expected a pipeline that is called with a prompt and a number of steps, received "
            f"{name}, which takes {', '.join(list(parameters)[1:6])}, .."
        )
    denoisers = {part: _empty(folder, part, index[part]) for part in _denoisers_in(index)}
    defaults: dict[str, Any] = {
        key: None if one.default is inspect.Parameter.empty else one.default
        for key, one in parameters.items()
    }
    sizes = {key: defaults[key] for key in _SIZES if key in parameters}
    if None in sizes.values():
        side = _side(kind, folder, index, denoisers)
        sizes = {key: value or side for key, value in sizes.items()}
    guided = isinstance(defaults.get("true_cfg_scale"), float) and defaults["true_cfg_scale"] > 1
    told = {key: value for key, value in sizes.items() if value}
    told |= {"negative_prompt": _NO_PROMPT} if guided else {}
    return PipelineFacts(
        source=source,
        pipeline=name,
        denoisers={part: type(one).__name__ for part, one in denoisers.items()},
        parameters=sum(p.numel() for one in denoisers.values() for p in one.parameters()),
        stacks=_stacks(denoisers),
        scheduler=str((index.get("scheduler") or ("", ""))[1]),
        steps=defaults["num_inference_steps"],
        call={**told, **call},
        examined=_examined(name),
        notes=_notes(name, parameters),
    )


def empty_denoiser(source: str) -> tuple[str, nn.Module]:
    """Return the name of a pipeline's first denoiser, and that without memory for its weights.

    Raises:
        ConfigError: If there is no pipeline, or its denoiser is none of diffusers.
        UnsupportedModelError: If it has no denoiser that is known by name.
    """
    folder, index = _read_index(source)
    name = _denoisers_in(index)[0]
    return name, _empty(folder, name, index[name])


def _read_index(source: str) -> tuple[str, dict[str, Any]]:
    """Return the folder of a pipeline, or its Hub id, and its parts by name."""
    import diffusers

    folder = folder_of(source)
    try:
        return folder, diffusers.DiffusionPipeline.load_config(folder)
    except Exception as error:  # whatever the libraries make of a damaged folder
        raise ConfigError(
            f"expected a pipeline folder or a Hub id, received {source!r}: {error}"
        ) from error


def _denoisers_in(index: Mapping[str, Any]) -> list[str]:
    found = [part for part in DENOISER_NAMES if _is_known(index.get(part))]
    if not found:
        raise UnsupportedModelError(
            f"expected a pipeline with one of {', '.join(DENOISER_NAMES)}, received "
            f"{index.get('_class_name')}"
        )
    return found


def _is_known(part: Any) -> bool:
    return isinstance(part, list | tuple) and len(part) == 2 and part[1] is not None


def _empty(folder: str, part: str, kind: Any) -> nn.Module:
    """Build a component of diffusers without memory for its weights."""
    import diffusers

    made = getattr(diffusers, str(kind[1]), None)
    if made is None:
        raise ConfigError(f"expected a {part} of diffusers, received {kind[1]} of {kind[0]}")
    config = made.load_config(folder, subfolder=part)
    with torch.device("meta"):
        empty: nn.Module = made.from_config(config)
    return empty


def _side(
    kind: Any, folder: str, index: Mapping[str, Any], denoisers: Mapping[str, nn.Module]
) -> int | None:
    """Return the side in pixels of the image that a call without a size draws; None if unknown."""
    parts: dict[str, Any] = dict(denoisers)
    names = inspect.signature(kind.__init__).parameters.keys() & index.keys()
    try:
        if _is_known(index.get("vae")):
            parts["vae"] = _empty(folder, "vae", index["vae"])
        settings = {name: index[name] for name in names if not isinstance(index[name], list)}
        pipe = kind(**{**dict.fromkeys(names), **settings, **parts})
        latent = getattr(pipe, "default_sample_size", None)
        if latent is None:
            config: Any = next(iter(denoisers.values())).config
            latent = config.sample_size
        return int(latent) * int(pipe.vae_scale_factor)
    except Exception:  # a pipeline that needs its weights to say so: the call decides
        return None


def _stacks(denoisers: Mapping[str, nn.Module]) -> dict[str, int]:
    found = {}
    for part, denoiser in denoisers.items():
        stack = find_stack(denoiser)
        for name in stack.names if stack is not None else ():
            blocks = getattr(denoiser, name, None)
            if isinstance(blocks, nn.ModuleList):
                found[f"{part}.{name}"] = len(blocks)
    return found


def _examined(pipeline: str) -> bool | None:
    """Tell what the table of examined pipelines says of a class."""
    lines = [one for one in supported_pipelines() if pipeline in one["pipelines"]]
    return all(one["tested"] for one in lines) if lines else None


def _notes(name: str, parameters: Mapping[str, Any]) -> list[str]:
    wanted = [key for key in _PICTURES if key in parameters]
    if not wanted:
        return []
    return [
        f"{name} also takes {', '.join(wanted)}, which an environment file cannot give: where it "
        "draws nothing without, train in Python"
    ]
