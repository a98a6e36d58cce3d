"""A tiny real StableDiffusionPipeline: its denoiser is a U-Net, called `unet`."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from benchmarks.zoo.pipelines import kl, model
from tests.kit.pipelines import build_tiny_pipe

#: Further arguments of its call: small, with both branches in one batch.
CALL = {"height": 16, "width": 16, "guidance_scale": 3.0}


def save_unet_pipe(folder: Path) -> Path:
    """Write the pipeline, with the text encoder of the tiny FLUX, and return its folder."""
    flux = build_tiny_pipe()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        pipe = StableDiffusionPipeline(
            vae=kl(shift_factor=None),
            text_encoder=flux.text_encoder,
            tokenizer=flux.tokenizer,
            unet=model("UNet2DConditionModel"),
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(folder / "pipeline")
    return folder / "pipeline"
