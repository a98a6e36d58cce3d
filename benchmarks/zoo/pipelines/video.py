"""Video transformers."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import (
    DDIMScheduler,
)

from benchmarks.zoo.denoisers import TEXT, WIDTH
from benchmarks.zoo.draws import Draw
from benchmarks.zoo.pipelines.row import (
    CLIP_FREE,
    Call,
    Pipeline,
    call,
    flow,
    guided,
    kl,
    model,
    nothing,
    picture,
    plain,
    source,
    square,
    wan_vae,
)


def _video(frames: int = 5) -> Call:
    return lambda d, side: {**square(d, side), "num_frames": frames}


def _wan(**more: Any) -> dict[str, Any]:
    return {
        "transformer": model("WanTransformer3DModel"),
        "vae": wan_vae(),
        "scheduler": flow(shift=3.0),
        **nothing("text_encoder", "tokenizer"),
        **more,
    }


def _two_wan() -> dict[str, Any]:
    return _wan(transformer_2=model("WanTransformer3DModel", ffn_dim=48), boundary_ratio=0.7)


def _frames(d: Draw, side: int) -> dict[str, Any]:
    return {"video": [picture(side)] * 5}


def _hunyuan_call(d: Draw, side: int) -> dict[str, Any]:
    return {
        "prompt_embeds": d.normal(TEXT, WIDTH),
        "prompt_attention_mask": d.full(1.0, TEXT),
        "pooled_prompt_embeds": d.normal(8),
        **_video()(d, side),
    }


def _cog_vae() -> Any:
    return diffusers.AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )


def _ltx_vae() -> Any:
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
    )


ROWS: dict[str, Pipeline] = {
    "WanPipeline": Pipeline("Wan", _wan, call(guided(), _video()), (16, 32)),
    "WanPipeline (two transformers)": Pipeline("Wan", _two_wan, call(guided(), _video()), (16, 32)),
    "WanImageToVideoPipeline": Pipeline(
        "Wan",
        lambda: _wan(
            transformer=model("WanTransformer3DModel", in_channels=12),
            image_encoder=None,
            image_processor=None,
        ),
        call(guided(), _video(), source),
        (16, 32),
        rows=False,
    ),
    "WanVideoToVideoPipeline": Pipeline(
        "Wan", _wan, call(guided(), square, _frames, strength=0.9), (16, 32), rows=False
    ),
    "HunyuanVideoPipeline": Pipeline(
        "HunyuanVideo",
        plain("HunyuanVideoTransformer3DModel", None, *CLIP_FREE),
        _hunyuan_call,
        (64, 96),
    ),
    "CogVideoXPipeline": Pipeline(
        "CogVideoX",
        plain("CogVideoXTransformer3DModel", _cog_vae, scheduler=DDIMScheduler),
        call(guided(8, 8), _video()),
        (64, 64),
    ),
    "LTXPipeline": Pipeline(
        "LTX",
        plain("LTXVideoTransformer3DModel", _ltx_vae),
        call(guided(masked=True), _video(9)),
        (32, 64),
    ),
    "MochiPipeline": Pipeline(
        "Mochi",
        plain("MochiTransformer3DModel", None),
        call(guided(tokens=16, masked=True), _video(7)),
        (32, 48),
    ),
    "LattePipeline": Pipeline(
        "Latte",
        plain("LatteTransformer3DModel", kl, scheduler=DDIMScheduler),
        call(guided(8), square, video_length=2, negative_prompt=None),
    ),
    "SkyReelsV2Pipeline": Pipeline(
        "SkyReels",
        plain(
            "SkyReelsV2Transformer3DModel",
            wan_vae,
            scheduler=lambda: diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True
            ),
        ),
        call(guided(), _video()),
        (16, 32),
    ),
}
