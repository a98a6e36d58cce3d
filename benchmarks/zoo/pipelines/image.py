"""Image transformers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import diffusers
from diffusers import (
    DDIMScheduler,
)

from benchmarks.zoo.denoisers import DENOISERS, TEXT, WIDTH
from benchmarks.zoo.draws import Draw
from benchmarks.zoo.pipelines.row import (
    SD3_FREE,
    Pipeline,
    call,
    flow,
    guided,
    kl,
    masked_source,
    model,
    nothing,
    picture,
    plain,
    pooled,
    qwen_vae,
    source,
    square,
)


def _sd3(**more: Any) -> dict[str, Any]:
    return {
        "transformer": model("SD3Transformer2DModel"),
        "scheduler": flow(),
        "vae": kl(),
        **nothing(*SD3_FREE),
        **more,
    }


_SD3_CALL = call(guided(32), pooled(16), square)


def _sd3_controlnet() -> dict[str, Any]:
    config = {**DENOISERS["SD3Transformer2DModel"].config, "num_layers": 1}
    return _sd3(controlnet=diffusers.SD3ControlNetModel(**config))


def _qwen(**more: Any) -> dict[str, Any]:
    return {
        "transformer": model("QwenImageTransformer2DModel"),
        "scheduler": flow(),
        "vae": qwen_vae(),
        **nothing("text_encoder", "tokenizer"),
        **more,
    }


_QWEN_CALL = call(guided(masked=True, mask="embeds_mask"), square, true_cfg_scale=2.0)


def _small_sources() -> AbstractContextManager[Any]:
    """Keep the source image small: the pipeline brings every one to a million pixels."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as module

    return mock.patch.object(module, "calculate_dimensions", return_value=(32, 32, None))


def _qwen_controlnet() -> dict[str, Any]:
    config = {**DENOISERS["QwenImageTransformer2DModel"].config, "num_layers": 1}
    return _qwen(controlnet=diffusers.QwenImageControlNetModel(**config))


def _z_image() -> dict[str, Any]:
    return {
        "transformer": model("ZImageTransformer2DModel"),
        "scheduler": flow(),
        "vae": kl(),
        **nothing("text_encoder", "tokenizer"),
    }


def _z_call(d: Draw, side: int) -> dict[str, Any]:
    return {
        "prompt_embeds": list(d.normal(TEXT, WIDTH)),
        "negative_prompt_embeds": list(d.normal(TEXT, WIDTH)),
        **square(d, side),
    }


def _hidream_call(d: Draw, side: int) -> dict[str, Any]:
    given: dict[str, Any] = dict(square(d, side))
    for name in ("", "negative_"):
        given |= {
            f"{name}prompt_embeds_t5": d.normal(TEXT, 8),
            f"{name}prompt_embeds_llama3": d.normal(2, TEXT, 4).transpose(0, 1).contiguous(),
            f"{name}pooled_prompt_embeds": d.normal(8),
        }
    return given


def _labels(d: Draw, side: int) -> dict[str, Any]:
    return {"class_labels": [int(label) for label in d.integers(7)], "guidance_scale": 2.0}


ROWS: dict[str, Pipeline] = {
    "StableDiffusion3Pipeline": Pipeline("SD3", _sd3, _SD3_CALL),
    "StableDiffusion3Pipeline (skip-layer guidance)": Pipeline(
        "SD3",
        _sd3,
        call(
            _SD3_CALL,
            skip_guidance_layers=[1],
            skip_layer_guidance_start=-1.0,
            skip_layer_guidance_stop=2.0,
        ),
    ),
    "StableDiffusion3Img2ImgPipeline": Pipeline(
        "SD3",
        lambda: _sd3(),
        lambda d, side: {**_SD3_CALL(d, side), "image": picture(side), "strength": 0.9},
    ),
    "StableDiffusion3InpaintPipeline": Pipeline(
        "SD3",
        lambda: _sd3(
            transformer=model("SD3Transformer2DModel", in_channels=16, out_channels=16),
            vae=kl(16),
        ),
        lambda d, side: {**_SD3_CALL(d, side), **masked_source(d, side), "strength": 0.9},
    ),
    "StableDiffusion3ControlNetPipeline": Pipeline(
        "SD3",
        _sd3_controlnet,
        lambda d, side: {**_SD3_CALL(d, side), "control_image": picture(side)},
    ),
    "QwenImagePipeline": Pipeline("Qwen-Image", _qwen, _QWEN_CALL, (32, 48)),
    "QwenImageImg2ImgPipeline": Pipeline(
        "Qwen-Image", _qwen, call(_QWEN_CALL, source, strength=0.9), (32, 48)
    ),
    "QwenImageInpaintPipeline": Pipeline(
        "Qwen-Image", _qwen, call(_QWEN_CALL, masked_source, strength=0.9), (32, 48)
    ),
    "QwenImageEditPipeline": Pipeline(
        "Qwen-Image",
        lambda: _qwen(processor=None),
        call(_QWEN_CALL, source),
        (32, 48),
        rows=False,
        around=_small_sources,
    ),
    "QwenImageControlNetPipeline": Pipeline(
        "Qwen-Image",
        _qwen_controlnet,
        lambda d, side: {**_QWEN_CALL(d, side), "control_image": picture(side)},
        (32, 48),
    ),
    "ZImagePipeline": Pipeline("Z-Image", _z_image, _z_call, (32, 48)),
    "ZImageImg2ImgPipeline": Pipeline(
        "Z-Image", _z_image, call(_z_call, source, strength=0.9), (32, 48)
    ),
    "PixArtAlphaPipeline": Pipeline(
        "PixArt",
        plain("PixArtTransformer2DModel", kl, scheduler=DDIMScheduler),
        call(guided(8, masked=True), square, use_resolution_binning=False, negative_prompt=None),
    ),
    "PixArtSigmaPipeline": Pipeline(
        "PixArt",
        plain("PixArtTransformer2DModel", kl, scheduler=DDIMScheduler),
        call(guided(8, masked=True), square, use_resolution_binning=False, negative_prompt=None),
    ),
    "SanaPipeline": Pipeline(
        "Sana",
        plain("SanaTransformer2DModel", None),
        call(guided(8, masked=True), square, use_resolution_binning=False, negative_prompt=None),
        (256, 384),
    ),
    "Lumina2Pipeline": Pipeline(
        "Lumina 2",
        plain("Lumina2Transformer2DModel", kl),
        call(guided(32, masked=True), square),
        (32, 48),
    ),
    "HiDreamImagePipeline": Pipeline(
        "HiDream",
        plain(
            "HiDreamImageTransformer2DModel",
            kl,
            *SD3_FREE,
            "text_encoder_4",
            "tokenizer_4",
        ),
        _hidream_call,
        settings={"default_sample_size": 8},  # it brings every size to that area
    ),
    "ChromaPipeline": Pipeline(
        "Chroma",
        plain("ChromaTransformer2DModel", kl, in_channels=16),
        call(guided(32, masked=True), square),
    ),
    "ChromaImg2ImgPipeline": Pipeline(
        "Chroma",
        plain("ChromaTransformer2DModel", kl, in_channels=16),
        call(guided(32, masked=True), square, source, strength=0.9),
    ),
    "DiTPipeline": Pipeline(
        "DiT",
        lambda: {
            "transformer": model("DiTTransformer2DModel", num_embeds_ada_norm=1000),
            "vae": kl(),
            "scheduler": DDIMScheduler(),
        },
        _labels,
        output="np",
    ),
    "CogView4Pipeline": Pipeline(
        "CogView",
        plain("CogView4Transformer2DModel", kl),
        call(guided(8, 8), square),
        (16, 32),
    ),
    "CogView3PlusPipeline": Pipeline(
        "CogView",
        plain("CogView3PlusTransformer2DModel", kl, scheduler=DDIMScheduler),
        call(guided(8, 8), square),
    ),
    "AuraFlowPipeline": Pipeline(
        "AuraFlow",
        plain("AuraFlowTransformer2DModel", kl),
        call(guided(masked=True), square),
    ),
    "PRXPipeline": Pipeline(
        "PRX",
        plain("PRXTransformer2DModel", kl),
        call(guided(masked=True), square, use_resolution_binning=False),
        rows=False,
    ),
    "OvisImagePipeline": Pipeline(
        "Ovis-Image",
        plain("OvisImageTransformer2DModel", kl, in_channels=16, out_channels=16),
        call(guided(32), square, negative_prompt=None),
    ),
    "BriaPipeline": Pipeline(
        "Bria",
        plain("BriaTransformer2DModel", kl, in_channels=16),
        call(guided(32), square),
    ),
}
