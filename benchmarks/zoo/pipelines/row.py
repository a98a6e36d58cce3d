"""What a row of the table of pipelines says, and what many of them are built and called with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image
from torch import nn

from benchmarks.zoo.denoisers import DENOISERS, TEXT, WIDTH
from benchmarks.zoo.draws import Draw

Call = Callable[[Draw, int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """How to build and call one pipeline.

    Attributes:
        family: What people call it.
        components: Builds all of its components.
        call: Arguments besides steps, generators and output, for a side in pixels.
        sides: Sides of the small and the large call.
        output: Its output type for latents.
        rows: It can draw several samples in one call.
        around: Holds during a call.
        settings: Attributes to set after building.
    """

    family: str
    components: Callable[[], dict[str, Any]]
    call: Call
    sides: tuple[int, int] = (16, 24)
    output: str = "latent"
    rows: bool = True
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    settings: dict[str, Any] = field(default_factory=dict)


def model(name: str, **changes: Any) -> nn.Module:
    """Build the tiny configuration of a denoiser, with changes."""
    kind = getattr(diffusers, name.split()[0])
    built: nn.Module = kind(**{**DENOISERS[name].config, **changes})
    return built


def kl(channels: int = 4, **changes: Any) -> AutoencoderKL:
    """Build an image autoencoder that halves the sides."""
    return AutoencoderKL(
        **{
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 1,
            "latent_channels": channels,
            "norm_num_groups": 4,
            "sample_size": 16,
            "mid_block_add_attention": False,
            "scaling_factor": 1.0,
            "shift_factor": 0.0,
            **changes,
        }
    )


def wan_vae() -> AutoencoderKLWan:
    """Build a video autoencoder: an eighth of the sides, a quarter of the frames."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def qwen_vae() -> AutoencoderKLQwenImage:
    """Build the image autoencoder of Qwen-Image: a quarter of the sides."""
    return AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def picture(side: int) -> Image.Image:
    """Draw a fixed image."""
    noise = np.random.default_rng(3).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def mask(side: int) -> Image.Image:
    """Draw a fixed mask: the left half."""
    half = np.zeros((side, side), dtype=np.uint8)
    half[:, : side // 2] = 255
    return Image.fromarray(half)


def nothing(*names: str) -> dict[str, None]:
    """Leave components out."""
    return dict.fromkeys(names)


def square(d: Draw, side: int) -> dict[str, Any]:
    """Return the size."""
    return {"height": side, "width": side}


def guided(width: int = WIDTH, tokens: int = TEXT, *, masked: bool = False, **names: str) -> Call:
    """Return embeddings of a prompt and of a negative one, with masks where they are asked for."""

    def call(d: Draw, side: int) -> dict[str, Any]:
        given = {
            "prompt_embeds": d.normal(tokens, width),
            "negative_prompt_embeds": d.normal(tokens, width),
        }
        if masked:
            for name in ("prompt", "negative_prompt"):
                given[f"{name}_{names.get('mask', 'attention_mask')}"] = d.full(1.0, tokens).bool()
        return given

    return call


def call(*parts: Call, **more: Any) -> Call:
    """Put a call together; a size, where no part says otherwise."""

    def joined(d: Draw, side: int) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for part in parts:
            given |= part(d, side)
        return given | more

    return joined


def flow(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    """Build the scheduler of flow matching."""
    return FlowMatchEulerDiscreteScheduler(**options)


def source(d: Draw, side: int) -> dict[str, Any]:
    """Return an image to begin with."""
    return {"image": picture(side)}


def masked_source(d: Draw, side: int) -> dict[str, Any]:
    """Return an image to begin with, and a mask of what is drawn anew."""
    return {"image": picture(side), "mask_image": mask(side)}


CLIP_FREE = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
SD3_FREE = (*CLIP_FREE, "text_encoder_3", "tokenizer_3")


def pooled(width: int) -> Call:
    """Return pooled embeddings of a prompt and of a negative one."""
    return lambda d, side: {
        "pooled_prompt_embeds": d.normal(width),
        "negative_pooled_prompt_embeds": d.normal(width),
    }


def plain(name: str, vae: Any, *free: str, scheduler: Any = None, **changes: Any) -> Any:
    """Return a builder: a denoiser of the table, an autoencoder, a scheduler, nothing else."""
    component = "unet" if name.startswith("UNet") else "transformer"
    return lambda: {
        component: model(name, **changes),
        "vae": vae() if vae is not None else None,
        "scheduler": flow() if scheduler is None else scheduler(),
        **nothing(*(free or ("text_encoder", "tokenizer"))),
    }
