"""Whole pipelines with tiny components, at least one per family.

Prompts are given as embeddings, except where the text encoders are CLIP and T5 of the embedded
default: a text encoder runs before the loop and is none of the cache's business. What a pipeline
is called with depends on `Draw`, so that a sample does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor, nn

from benchmarks.zoo.checks import STEPS
from benchmarks.zoo.denoisers import DENOISERS, TEXT, WIDTH, enliven
from benchmarks.zoo.draws import Draw
from benchmarks.zoo.rows import Unit

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


def build(name: str) -> Any:
    """Build a pipeline with random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        components = PIPELINES[name].components()
        for part in components.values():
            if isinstance(part, nn.Module):
                enliven(part)
        pipe = getattr(diffusers, name.split()[0])(**components)
    for setting, value in PIPELINES[name].settings.items():
        setattr(pipe, setting, value)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline_unit(name: str, pipe: Any) -> Unit:
    """Make a unit of a pipeline."""
    facts = PIPELINES[name]

    def draw(seeds: Sequence[int], large: bool) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given = {
            "num_inference_steps": STEPS,
            "generator": generators if len(seeds) > 1 else generators[0],
            "output_type": facts.output,
            "return_dict": False,
            **facts.call(Draw(seeds), facts.sides[large]),
        }
        # Rows are not independent where a pipeline encodes its image with the noise of the first
        # row, or with that of nobody's generator: here it is encoded without any.
        mode = mock.patch.object(DiagonalGaussianDistribution, "sample", _mode)
        with torch.random.fork_rng(devices=[]), mode, facts.around():
            torch.manual_seed(0)
            return as_tensor(pipe(**given)[0])

    return Unit(pipe, draw, facts.rows)


def _mode(encoded: DiagonalGaussianDistribution, generator: Any = None) -> Tensor:
    found: Tensor = encoded.mode()
    return found


def as_tensor(drawn: Any) -> Tensor:
    """Make one tensor of whatever a pipeline returns."""
    if isinstance(drawn, list | tuple):
        return torch.stack([as_tensor(item) for item in drawn])
    return torch.as_tensor(np.asarray(drawn)) if not isinstance(drawn, Tensor) else drawn


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


def _flow(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**options)


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


def _source(d: Draw, side: int) -> dict[str, Any]:
    return {"image": picture(side)}


def _masked_source(d: Draw, side: int) -> dict[str, Any]:
    return {"image": picture(side), "mask_image": mask(side)}


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
    return {"vae": vae, "transformer": transformer, "scheduler": _flow()}


_CLIP_FREE = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
_SD3_FREE = (*_CLIP_FREE, "text_encoder_3", "tokenizer_3")


def _sd3(**more: Any) -> dict[str, Any]:
    return {
        "transformer": model("SD3Transformer2DModel"),
        "scheduler": _flow(),
        "vae": kl(),
        **nothing(*_SD3_FREE),
        **more,
    }


def _pooled(width: int) -> Call:
    return lambda d, side: {
        "pooled_prompt_embeds": d.normal(width),
        "negative_pooled_prompt_embeds": d.normal(width),
    }


_SD3_CALL = call(guided(32), _pooled(16), square)


def _sd3_controlnet() -> dict[str, Any]:
    config = {**DENOISERS["SD3Transformer2DModel"].config, "num_layers": 1}
    return _sd3(controlnet=diffusers.SD3ControlNetModel(**config))


def _qwen(**more: Any) -> dict[str, Any]:
    return {
        "transformer": model("QwenImageTransformer2DModel"),
        "scheduler": _flow(),
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
        "scheduler": _flow(),
        "vae": kl(),
        **nothing("text_encoder", "tokenizer"),
    }


def _z_call(d: Draw, side: int) -> dict[str, Any]:
    return {
        "prompt_embeds": list(d.normal(TEXT, WIDTH)),
        "negative_prompt_embeds": list(d.normal(TEXT, WIDTH)),
        **square(d, side),
    }


def _plain(name: str, vae: Any, *free: str, scheduler: Any = None, **changes: Any) -> Any:
    """Return a builder: a denoiser of the table, an autoencoder, a scheduler, nothing else."""
    component = "unet" if name.startswith("UNet") else "transformer"
    return lambda: {
        component: model(name, **changes),
        "vae": vae() if vae is not None else None,
        "scheduler": _flow() if scheduler is None else scheduler(),
        **nothing(*(free or ("text_encoder", "tokenizer"))),
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


def _video(frames: int = 5) -> Call:
    return lambda d, side: {**square(d, side), "num_frames": frames}


def _wan(**more: Any) -> dict[str, Any]:
    return {
        "transformer": model("WanTransformer3DModel"),
        "vae": wan_vae(),
        "scheduler": _flow(shift=3.0),
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


def _ldm(name: str = "UNet2DConditionModel", **more: Any) -> Any:
    xl = "SDXL" in name
    free = _CLIP_FREE if xl else ("text_encoder", "tokenizer", "safety_checker")
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


PIPELINES: dict[str, Pipeline] = {
    "FluxPipeline": Pipeline("FLUX", _flux, _prompt, _SIDES),
    "FluxPipeline (true guidance)": Pipeline(
        "FLUX",
        _flux,
        lambda d, side: (
            _prompt(d, side) | {"true_cfg_scale": 2.0, "negative_prompt": ["a green ring"] * d.rows}
        ),
        _SIDES,
    ),
    "FluxImg2ImgPipeline": Pipeline("FLUX", _flux, call(_prompt, _source, strength=0.9), _SIDES),
    "FluxInpaintPipeline": Pipeline(
        "FLUX", _flux, call(_prompt, _masked_source, strength=0.9), _SIDES
    ),
    "FluxFillPipeline": Pipeline(
        "FLUX",
        lambda: _flux(in_channels=16 + 16 + 64, out_channels=16),
        call(_prompt, _masked_source),
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
        call(_prompt, _source, max_area=64 * 64, _auto_resize=False),
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
        lambda d, side: {**_SD3_CALL(d, side), **_masked_source(d, side), "strength": 0.9},
    ),
    "StableDiffusion3ControlNetPipeline": Pipeline(
        "SD3",
        _sd3_controlnet,
        lambda d, side: {**_SD3_CALL(d, side), "control_image": picture(side)},
    ),
    "QwenImagePipeline": Pipeline("Qwen-Image", _qwen, _QWEN_CALL, (32, 48)),
    "QwenImageImg2ImgPipeline": Pipeline(
        "Qwen-Image", _qwen, call(_QWEN_CALL, _source, strength=0.9), (32, 48)
    ),
    "QwenImageInpaintPipeline": Pipeline(
        "Qwen-Image", _qwen, call(_QWEN_CALL, _masked_source, strength=0.9), (32, 48)
    ),
    "QwenImageEditPipeline": Pipeline(
        "Qwen-Image",
        lambda: _qwen(processor=None),
        call(_QWEN_CALL, _source),
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
        "Z-Image", _z_image, call(_z_call, _source, strength=0.9), (32, 48)
    ),
    "PixArtAlphaPipeline": Pipeline(
        "PixArt",
        _plain("PixArtTransformer2DModel", kl, scheduler=DDIMScheduler),
        call(guided(8, masked=True), square, use_resolution_binning=False, negative_prompt=None),
    ),
    "PixArtSigmaPipeline": Pipeline(
        "PixArt",
        _plain("PixArtTransformer2DModel", kl, scheduler=DDIMScheduler),
        call(guided(8, masked=True), square, use_resolution_binning=False, negative_prompt=None),
    ),
    "SanaPipeline": Pipeline(
        "Sana",
        _plain("SanaTransformer2DModel", None),
        call(guided(8, masked=True), square, use_resolution_binning=False, negative_prompt=None),
        (256, 384),
    ),
    "Lumina2Pipeline": Pipeline(
        "Lumina 2",
        _plain("Lumina2Transformer2DModel", kl),
        call(guided(32, masked=True), square),
        (32, 48),
    ),
    "HiDreamImagePipeline": Pipeline(
        "HiDream",
        _plain(
            "HiDreamImageTransformer2DModel",
            kl,
            *_SD3_FREE,
            "text_encoder_4",
            "tokenizer_4",
        ),
        _hidream_call,
        settings={"default_sample_size": 8},  # it brings every size to that area
    ),
    "ChromaPipeline": Pipeline(
        "Chroma",
        _plain("ChromaTransformer2DModel", kl, in_channels=16),
        call(guided(32, masked=True), square),
    ),
    "ChromaImg2ImgPipeline": Pipeline(
        "Chroma",
        _plain("ChromaTransformer2DModel", kl, in_channels=16),
        call(guided(32, masked=True), square, _source, strength=0.9),
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
    "WanPipeline": Pipeline("Wan", _wan, call(guided(), _video()), (16, 32)),
    "WanPipeline (two transformers)": Pipeline("Wan", _two_wan, call(guided(), _video()), (16, 32)),
    "WanImageToVideoPipeline": Pipeline(
        "Wan",
        lambda: _wan(
            transformer=model("WanTransformer3DModel", in_channels=12),
            image_encoder=None,
            image_processor=None,
        ),
        call(guided(), _video(), _source),
        (16, 32),
        rows=False,
    ),
    "WanVideoToVideoPipeline": Pipeline(
        "Wan", _wan, call(guided(), square, _frames, strength=0.9), (16, 32), rows=False
    ),
    "HunyuanVideoPipeline": Pipeline(
        "HunyuanVideo",
        _plain("HunyuanVideoTransformer3DModel", None, *_CLIP_FREE),
        _hunyuan_call,
        (64, 96),
    ),
    "CogVideoXPipeline": Pipeline(
        "CogVideoX",
        _plain("CogVideoXTransformer3DModel", _cog_vae, scheduler=DDIMScheduler),
        call(guided(8, 8), _video()),
        (64, 64),
    ),
    "CogView4Pipeline": Pipeline(
        "CogView",
        _plain("CogView4Transformer2DModel", kl),
        call(guided(8, 8), square),
        (16, 32),
    ),
    "CogView3PlusPipeline": Pipeline(
        "CogView",
        _plain("CogView3PlusTransformer2DModel", kl, scheduler=DDIMScheduler),
        call(guided(8, 8), square),
    ),
    "LTXPipeline": Pipeline(
        "LTX",
        _plain("LTXVideoTransformer3DModel", _ltx_vae),
        call(guided(masked=True), _video(9)),
        (32, 64),
    ),
    "MochiPipeline": Pipeline(
        "Mochi",
        _plain("MochiTransformer3DModel", None),
        call(guided(tokens=16, masked=True), _video(7)),
        (32, 48),
    ),
    "StableAudioPipeline": Pipeline("Stable Audio", _stable_audio, _audio_call),
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
        call(guided(32), square, _masked_source),
    ),
    "StableDiffusionControlNetPipeline": Pipeline(
        "SD 1.5", _ldm(controlnet=_sd_controlnet), call(guided(32), square, _source)
    ),
    "StableDiffusionXLPipeline": Pipeline(
        "SDXL",
        _ldm("UNet2DConditionModel (SDXL)", scheduler=EulerDiscreteScheduler),
        call(guided(32), _pooled(32), square),
    ),
    "StableDiffusionXLPipeline (base of a refiner)": Pipeline(
        "SDXL",
        _ldm("UNet2DConditionModel (SDXL)", scheduler=EulerDiscreteScheduler),
        call(guided(32), _pooled(32), square, denoising_end=0.8),
    ),
    "StableDiffusionXLImg2ImgPipeline": Pipeline(
        "SDXL",
        _ldm("UNet2DConditionModel (SDXL)", scheduler=EulerDiscreteScheduler),
        lambda d, side: {
            **guided(32)(d, side),
            **_pooled(32)(d, side),
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
    "AuraFlowPipeline": Pipeline(
        "AuraFlow",
        _plain("AuraFlowTransformer2DModel", kl),
        call(guided(masked=True), square),
    ),
    "LattePipeline": Pipeline(
        "Latte",
        _plain("LatteTransformer3DModel", kl, scheduler=DDIMScheduler),
        call(guided(8), square, video_length=2, negative_prompt=None),
    ),
    "PRXPipeline": Pipeline(
        "PRX",
        _plain("PRXTransformer2DModel", kl),
        call(guided(masked=True), square, use_resolution_binning=False),
        rows=False,
    ),
    "SkyReelsV2Pipeline": Pipeline(
        "SkyReels",
        _plain(
            "SkyReelsV2Transformer3DModel",
            wan_vae,
            scheduler=lambda: diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True
            ),
        ),
        call(guided(), _video()),
        (16, 32),
    ),
    "OvisImagePipeline": Pipeline(
        "Ovis-Image",
        _plain("OvisImageTransformer2DModel", kl, in_channels=16, out_channels=16),
        call(guided(32), square, negative_prompt=None),
    ),
    "BriaPipeline": Pipeline(
        "Bria",
        _plain("BriaTransformer2DModel", kl, in_channels=16),
        call(guided(32), square),
    ),
}
