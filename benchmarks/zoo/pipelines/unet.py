"""U-Nets."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
)
from torch import nn

from benchmarks.zoo.pipelines.row import (
    CLIP_FREE,
    Pipeline,
    call,
    guided,
    kl,
    masked_source,
    model,
    nothing,
    picture,
    pooled,
    source,
    square,
)


def _ldm(name: str = "UNet2DConditionModel", **more: Any) -> Any:
    xl = "SDXL" in name
    free = CLIP_FREE if xl else ("text_encoder", "tokenizer", "safety_checker")
    extra = {} if xl else {"feature_extractor": None, "requires_safety_checker": False}
    changes = more.pop("changes", {})
    scheduler = more.pop("scheduler", lambda: DDIMScheduler(clip_sample=False))
    return lambda: {
        "unet": model(name, **changes),
        "vae": kl(shift_factor=None),
        "scheduler": scheduler(),
        **nothing(*free),
        **extra,
        **{key: make() for key, make in more.items()},
    }


def _sd_controlnet() -> nn.Module:
    unet = model("UNet2DConditionModel")
    net: nn.Module = diffusers.ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(4, 8)
    )
    return net


def _svd() -> dict[str, Any]:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            projection_dim=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=224,  # the pipeline brings every image to that
            intermediate_size=32,
            patch_size=32,
        )
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        sample_size=16,
    )
    return {
        "unet": model("UNetSpatioTemporalConditionModel", out_channels=4),
        "vae": vae,
        "image_encoder": encoder,
        "scheduler": EulerDiscreteScheduler(
            prediction_type="v_prediction",
            use_karras_sigmas=True,
            timestep_type="continuous",
            sigma_min=0.002,
            sigma_max=700.0,
            timestep_spacing="leading",
            steps_offset=1,
        ),
        "feature_extractor": CLIPImageProcessorPil(),
    }


ROWS: dict[str, Pipeline] = {
    "StableDiffusionPipeline": Pipeline("SD 1.5", _ldm(), call(guided(32), square)),
    "StableDiffusionPipeline (Heun)": Pipeline(
        "SD 1.5", _ldm(scheduler=diffusers.HeunDiscreteScheduler), call(guided(32), square)
    ),
    "StableDiffusionPipeline (DPM2)": Pipeline(
        "SD 1.5", _ldm(scheduler=diffusers.KDPM2DiscreteScheduler), call(guided(32), square)
    ),
    "StableDiffusionPipeline (PNDM)": Pipeline(
        "SD 1.5",
        _ldm(scheduler=lambda: diffusers.PNDMScheduler(skip_prk_steps=True)),
        call(guided(32), square),
    ),
    "StableDiffusionImg2ImgPipeline": Pipeline(
        "SD 1.5",
        _ldm(),
        lambda d, side: {**guided(32)(d, side), "image": picture(side), "strength": 0.9},
    ),
    "StableDiffusionInpaintPipeline": Pipeline(
        "SD 1.5",
        _ldm(changes={"in_channels": 9}),
        call(guided(32), square, masked_source),
    ),
    "StableDiffusionControlNetPipeline": Pipeline(
        "SD 1.5", _ldm(controlnet=_sd_controlnet), call(guided(32), square, source)
    ),
    "StableDiffusionXLPipeline": Pipeline(
        "SDXL",
        _ldm("UNet2DConditionModel (SDXL)", scheduler=EulerDiscreteScheduler),
        call(guided(32), pooled(32), square),
    ),
    "StableDiffusionXLPipeline (base of a refiner)": Pipeline(
        "SDXL",
        _ldm("UNet2DConditionModel (SDXL)", scheduler=EulerDiscreteScheduler),
        call(guided(32), pooled(32), square, denoising_end=0.8),
    ),
    "StableDiffusionXLImg2ImgPipeline": Pipeline(
        "SDXL",
        _ldm("UNet2DConditionModel (SDXL)", scheduler=EulerDiscreteScheduler),
        lambda d, side: {
            **guided(32)(d, side),
            **pooled(32)(d, side),
            "image": picture(side),
            "strength": 0.9,
        },
    ),
    "StableVideoDiffusionPipeline": Pipeline(
        "SVD",
        _svd,
        lambda d, side: {
            "image": picture(side),
            "height": side,
            "width": side,
            "num_frames": 2,
            "min_guidance_scale": 1.5,
        },
        (16, 24),
        rows=False,
    ),
}
