"""FLUX and FLUX.2, and what shares the text encoders of FLUX."""

from __future__ import annotations

from typing import Any

import diffusers
from torch import nn

from benchmarks.zoo.denoisers import TEXT
from benchmarks.zoo.draws import Draw
from benchmarks.zoo.pipelines.row import (
    Pipeline,
    call,
    flow,
    guided,
    masked_source,
    model,
    nothing,
    picture,
    source,
    square,
)


def _flux(kind: type[nn.Module] | None = None, **changes: Any) -> dict[str, Any]:
    """Return components of FLUX with the text encoders of the embedded default."""
    from benchmarks.zoo.tiny import build_tiny_pipe

    parts: dict[str, Any] = dict(build_tiny_pipe().components)
    parts = {k: v for k, v in parts.items() if k not in ("image_encoder", "feature_extractor")}
    if changes:
        config = dict(parts["transformer"].config) | changes
        config = {k: v for k, v in config.items() if not k.startswith("_")}
        parts["transformer"] = type(parts["transformer"])(**config)
    return parts


_PROMPTS = ("a red disc at left", "a blue star at right", "a small square")


def _prompt(d: Draw, side: int) -> dict[str, Any]:
    return {"prompt": _prompts(d), "max_sequence_length": 12, **square(d, side)}


def _prompts(d: Draw) -> list[str]:
    return [_PROMPTS[int(number)] for number in d.integers(len(_PROMPTS))]


def _flux_controlnet() -> dict[str, Any]:
    parts = _flux()
    config = dict(parts["transformer"].config)
    kept = {k: v for k, v in config.items() if not k.startswith("_") and k != "out_channels"}
    net = diffusers.FluxControlNetModel(**{**kept, "num_layers": 1, "num_single_layers": 1})
    return {**parts, "controlnet": net}


_SIDES = (64, 96)


def _flux2() -> dict[str, Any]:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    transformer = model("Flux2Transformer2DModel", in_channels=16, guidance_embeds=False)
    return {"vae": vae, "transformer": transformer, "scheduler": flow()}


def _stable_audio() -> dict[str, Any]:
    from diffusers import AutoencoderOobleck, EDMDPMSolverMultistepScheduler
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    parts = _flux()
    vae = AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=4,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    return {
        "transformer": model("StableAudioDiTModel"),
        "scheduler": EDMDPMSolverMultistepScheduler(),
        "vae": vae,
        "text_encoder": parts["text_encoder_2"],
        "tokenizer": parts["tokenizer_2"],
        "projection_model": StableAudioProjectionModel(
            text_encoder_dim=32, conditioning_dim=4, min_value=0, max_value=32
        ),
    }


def _audio_call(d: Draw, side: int) -> dict[str, Any]:
    return {"prompt": _prompts(d), "audio_end_in_s": side / 32}


ROWS: dict[str, Pipeline] = {
    "FluxPipeline": Pipeline("FLUX", _flux, _prompt, _SIDES),
    "FluxPipeline (true guidance)": Pipeline(
        "FLUX",
        _flux,
        lambda d, side: (
            _prompt(d, side) | {"true_cfg_scale": 2.0, "negative_prompt": ["a green ring"] * d.rows}
        ),
        _SIDES,
    ),
    "FluxImg2ImgPipeline": Pipeline("FLUX", _flux, call(_prompt, source, strength=0.9), _SIDES),
    "FluxInpaintPipeline": Pipeline(
        "FLUX", _flux, call(_prompt, masked_source, strength=0.9), _SIDES
    ),
    "FluxFillPipeline": Pipeline(
        "FLUX",
        lambda: _flux(in_channels=16 + 16 + 64, out_channels=16),
        call(_prompt, masked_source),
        _SIDES,
    ),
    "FluxControlPipeline": Pipeline(
        "FLUX",
        lambda: _flux(in_channels=32, out_channels=16),
        lambda d, side: _prompt(d, side) | {"control_image": picture(side)},
        _SIDES,
    ),
    "FluxControlNetPipeline": Pipeline(
        "FLUX",
        _flux_controlnet,
        lambda d, side: _prompt(d, side) | {"control_image": picture(side)},
        _SIDES,
    ),
    "FluxKontextPipeline": Pipeline(
        "FLUX",
        _flux,
        call(_prompt, source, max_area=64 * 64, _auto_resize=False),
        _SIDES,
    ),
    "Flux2KleinPipeline": Pipeline(
        "FLUX.2",
        lambda: _flux2() | nothing("text_encoder", "tokenizer"),
        call(guided(32), square),
    ),
    "Flux2Pipeline": Pipeline(
        "FLUX.2",
        lambda: _flux2() | nothing("text_encoder", "tokenizer"),
        lambda d, side: {"prompt_embeds": d.normal(TEXT, 32), **square(d, side)},
    ),
    "StableAudioPipeline": Pipeline("Stable Audio", _stable_audio, _audio_call),
}
