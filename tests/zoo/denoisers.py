"""The smallest sensible configuration of every denoiser class, and what it is called with.

A row of the table is one class. Sizes are sides of the latent; what depends on rows is drawn by
`Draw`, so that a sample does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.draws import Draw, grid

Inputs = Callable[[Draw, int, nn.Module], dict[str, Any]]
Shape = Callable[[int], tuple[int, ...]]

#: Text tokens, and their width where a class does not ask for another.
TEXT, WIDTH = 6, 16


@dataclass(frozen=True, slots=True)
class Denoiser:
    """How to build and call one class.

    Attributes:
        config: Arguments of its constructor.
        shape: Shape of one latent, of a size.
        inputs: Constant arguments of a call besides latents and timestep.
        latents: Name of the latents' argument.
        timestep: Name of the timestep's argument.
        scale: What the scheduler's timestep is multiplied with.
        clock: Shape of the timestep behind the rows.
        listed: Latents are a list of rows.
        tail: The prediction is at the end of the output's tokens.
        integers: Timesteps are integers.
        rows: It takes batches.
        guided: It has conditioning, and so a second branch.
    """

    config: dict[str, Any]
    shape: Shape
    inputs: Inputs
    latents: str = "hidden_states"
    timestep: str = "timestep"
    scale: float = 1.0
    clock: Shape = field(default=lambda n: ())
    listed: bool = False
    tail: bool = False
    integers: bool = False
    rows: bool = True
    guided: bool = True


def build(name: str) -> nn.Module:
    """Build a model with random weights, the same every time."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model: nn.Module = getattr(diffusers, name.split()[0])(**DENOISERS[name].config)
        enliven(model)
    return model


def enliven(model: nn.Module) -> None:
    """Give weights to what starts at zero: it would switch blocks off, and hide every fault."""
    for parameter in model.eval().parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def _text(width: int = WIDTH, tokens: int = TEXT) -> Inputs:
    return lambda d, n, m: {"encoder_hidden_states": d.normal(tokens, width)}


def _masked(width: int = WIDTH, tokens: int = TEXT, *, boolean: bool = True) -> Inputs:
    def inputs(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
        mask = d.full(1.0, tokens)
        return {
            "encoder_hidden_states": d.normal(tokens, width),
            "encoder_attention_mask": mask.bool() if boolean else mask,
        }

    return inputs


def _with_ids(width: int, axes: int = 3, **more: Inputs) -> Inputs:
    def inputs(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
        given = {
            "encoder_hidden_states": d.normal(TEXT, width),
            "img_ids": grid(n, n, axes=axes),
            "txt_ids": torch.zeros(TEXT, axes),
        }
        for part in more.values():
            given |= part(d, n, m)
        return given

    return inputs


def _pooled(width: int) -> Inputs:
    return lambda d, n, m: {"pooled_projections": d.normal(width)}


def _guidance(value: float) -> Inputs:
    return lambda d, n, m: {"guidance": d.full(value)}


def _sizes(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(8, 8),
        "original_size": d.full(8.0 * n, 2),
        "target_size": d.full(8.0 * n, 2),
        "crop_coords": d.full(0.0, 2),
    }


def _fibo(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"text_encoder_layers": [d.normal(TEXT, 32) for _ in range(4)]}


def _consisid(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(8, 8),
        "id_vit_hidden": [d.normal(2, 2)],
        "id_cond": d.normal(2),
    }


def _glm(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, 32),
        "prior_token_id": d.integers(64, n * n // 4),
        "prior_token_drop": d.full(0.0, n * n // 4).bool(),
        "target_size": d.full(float(n), 2),
        "crop_coords": d.full(0.0, 2),
    }


def _helios(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "indices_hidden_states": d.full(1.0, 2),
        "indices_latents_history_short": d.full(1.0, 1),
        "indices_latents_history_mid": d.full(1.0, 1),
        "indices_latents_history_long": d.full(1.0, 4),
        "latents_history_short": d.normal(4, 1, n, n),
        "latents_history_mid": d.normal(4, 1, n, n),
        "latents_history_long": d.normal(4, 4, n, n),
    }


def _hidream(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states_t5": d.normal(TEXT, 8),
        "encoder_hidden_states_llama3": d.normal(2, TEXT, 4).transpose(0, 1).contiguous(),
        "pooled_embeds": d.normal(8),
    }


def _hunyuan_dit(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    tokens = n * n // 4
    return {
        "encoder_hidden_states": d.normal(4, 8),
        "text_embedding_mask": d.full(1.0, 4),
        "encoder_hidden_states_t5": d.normal(4, 8),
        "text_embedding_mask_t5": d.full(1.0, 4),
        "image_meta_size": d.full(16.0, 6),
        "style": d.full(0.0).long(),
        "image_rotary_emb": (torch.ones(tokens, 8), torch.zeros(tokens, 8)),
    }


def _hunyuan_video(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return _masked(boolean=False)(d, n, m) | _pooled(8)(d, n, m) | _guidance(6000.0)(d, n, m)


def _hunyuan_15(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        **_masked(boolean=False)(d, n, m),
        "encoder_hidden_states_2": d.normal(4, 8),
        "encoder_attention_mask_2": d.full(1.0, 4),
        "image_embeds": d.full(0.0, 3, 12),
    }


def _framepack(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        **_hunyuan_video(d, n, m),
        "image_embeds": d.normal(TEXT, WIDTH),
        "indices_latents": torch.ones(3),
        "latents_clean": d.normal(4, 2, n, n),
        "indices_latents_clean": torch.ones(2),
        "latents_history_2x": d.normal(4, 2, n, n),
        "indices_latents_history_2x": torch.ones(2),
        "latents_history_4x": d.normal(4, 8, n, n),
        "indices_latents_history_4x": torch.ones(8),
    }


def _ideogram(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    from diffusers.models.transformers import transformer_ideogram4 as module

    image, tokens = n * n, n * n + TEXT
    text = torch.arange(TEXT)[:, None].expand(TEXT, 3)
    places = torch.cat([text, grid(n, n, axes=3).long() + module.IMAGE_POSITION_OFFSET])
    kinds = [module.LLM_TOKEN_INDICATOR] * TEXT + [module.OUTPUT_IMAGE_INDICATOR] * image
    words = torch.cat([d.normal(TEXT, 24), d.full(0.0, image, 24)], dim=1)
    return {
        "encoder_hidden_states": words,
        "position_ids": places.expand(d.rows, -1, -1),
        "segment_ids": torch.ones(d.rows, tokens, dtype=torch.long),
        "indicator": torch.tensor(kinds).expand(d.rows, -1),
    }


def _kandinsky(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "pooled_projections": d.normal(8),
        "visual_rope_pos": [torch.arange(2), torch.arange(n // 2), torch.arange(n // 2)],
        "text_rope_pos": torch.arange(TEXT),
        "scale_factor": (1.0, 1.0, 1.0),
    }


def _kandinsky6(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, 8),
        "pooled_projections": d.normal(8),
        "visual_rope_pos": [torch.arange(2), torch.arange(n // 2), torch.arange(n // 2)],
    }


def _krea(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, 3, WIDTH),
        "position_ids": torch.cat([torch.zeros(TEXT, 3), grid(n, n, axes=3)]),
        "encoder_attention_mask": d.full(1.0, TEXT).bool(),
    }


def _ltx(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return _masked()(d, n, m) | {"num_frames": 2, "height": n, "width": n}


def _ltx2(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        **_ltx(d, n, m),
        "audio_hidden_states": d.normal(9, 4),
        "audio_encoder_hidden_states": d.normal(TEXT, WIDTH),
        "audio_num_frames": 9,
        "fps": 25.0,
    }


def _lumina_next(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    angles = torch.arange(32)[:, None, None] * torch.linspace(0.1, 1, 4)[None, None]
    return {
        "encoder_hidden_states": d.normal(TEXT, 32),
        "encoder_mask": d.full(1.0, TEXT),
        "image_rotary_emb": torch.polar(torch.ones(32, 32, 4), angles.expand(32, 32, 4)),
        "cross_attention_kwargs": {},
    }


def _omnigen(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    tokens = TEXT + 1 + n * n // 4
    return {
        "input_ids": d.integers(10, TEXT),
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": d.full(1.0, tokens, tokens),
        "position_ids": torch.arange(tokens).expand(d.rows, -1),
    }


def _prior(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"proj_embedding": d.normal(8), "encoder_hidden_states": d.normal(7, 8)}


def _qwen(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "encoder_hidden_states_mask": d.full(1.0, TEXT).long(),
        "img_shapes": [(1, n, n)] * d.rows,
    }


def _qwen21(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    seen = torch.cat([torch.zeros(4), torch.ones(n * n // 4)]).bool()
    return {
        "encoder_hidden_states": d.normal(4, 8),
        "encoder_hidden_states_mask": d.full(1.0, 4).long(),
        "img_shapes": [[(1, n, n)]] * d.rows,
        "img_mask": seen.expand(d.rows, -1),
    }


def _allegro(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    *angles, grid_t, grid_h, grid_w = get_3d_rotary_pos_embed_allegro(
        embed_dim=12,
        crops_coords=((0, 0), (n // 2, n // 2)),
        grid_size=(n // 2, n // 2),
        temporal_size=2,
        interpolation_scale=(1.0, 1.0, 1.0),
    )
    places = torch.cartesian_prod(grid_t.long(), grid_h.long(), grid_w.long())
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "image_rotary_emb": (angles, places.T.reshape(3, 1, -1).unbind()),
    }


def _per_frame(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"encoder_hidden_states": d.normal(TEXT, 32).repeat_interleave(2, dim=0)}


def _joy_plus(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "encoder_hidden_states_mask": d.full(1.0, TEXT),
        "shape_list": [[(1, n, n)]] * d.rows,
    }


def _stable_audio(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    return {
        "encoder_hidden_states": d.normal(TEXT, 4),
        "global_hidden_states": d.normal(1, 8),
        "rotary_embedding": get_1d_rotary_pos_embed(2, n + 1, use_real=True),
    }


def _stable_audio3(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"encoder_hidden_states": d.normal(4, WIDTH), "global_hidden_states": d.normal(12)}


def _animate(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "encoder_hidden_states_image": d.normal(TEXT, WIDTH),
        "pose_hidden_states": d.normal(4, 20, n, n),
        "face_pixel_values": d.normal(3, 77, 16, 16),
    }


def _vace(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return _text()(d, n, m) | {"control_hidden_states": d.normal(12, 2, n, n)}


def _z_image(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"cap_feats": list(d.normal(TEXT, WIDTH))}


def _longcat_audio(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return _masked(32)(d, n, m) | {"attention_mask": d.full(1.0, n).bool()}


def _minimax(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    video, audio, text = n * n, 6, 4
    tags = torch.tensor([1] * text + [2] * audio + [0] * video)
    places = torch.arange(len(tags)).float()
    return {
        "audio_hidden_states": d.normal(audio, 6),
        "encoder_hidden_states": d.normal(text, 8),
        "timestep_indices": torch.zeros(len(tags), dtype=torch.long),
        "token_tags": tags,
        "position_ids": torch.stack([places, places % n, places % n], dim=1),
        "video_indices": torch.arange(text + audio, len(tags)),
        "audio_indices": torch.arange(text, text + audio),
        "text_indices": torch.arange(text),
    }


def _ace(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "timestep_r": d.full(0.5),
        "encoder_hidden_states": d.normal(TEXT, 32),
        "context_latents": d.normal(n, 16),
    }


def _anyflow(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return _text()(d, n, m) | {"r_timestep": d.full(250.0, 2)}


def _sdxl(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    added = {"text_embeds": d.normal(32), "time_ids": d.full(32.0, 6)}
    return {"encoder_hidden_states": d.normal(TEXT, 32), "added_cond_kwargs": added}


def _svd(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"encoder_hidden_states": d.normal(1, 32), "added_time_ids": d.full(7.0, 3)}


def _refiner(d: Draw, n: int, m: Any) -> dict[str, Any]:
    rope = m.build_rotary_emb_for_absolute_positions(
        batch_size=d.rows, frame_positions=[0, 1], height=n, width=n, device="cpu", fps=24.0
    )
    return _masked(boolean=False)(d, n, m) | {"video_rotary_emb": rope}


def _class_labels(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"class_labels": d.integers(8)}


_IMAGE: Shape = lambda n: (4, n, n)  # noqa: E731
_VIDEO: Shape = lambda n: (4, 2, n, n)  # noqa: E731
_TOKENS: Shape = lambda n: (n * n, 4)  # noqa: E731
_JOY: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "in_channels": 4,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "text_dim": WIDTH,
    "num_layers": 2,
    "rope_dim_list": [4, 6, 6],
    "theta": 256,
}
_WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": WIDTH,
    "freq_dim": 256,
    "ffn_dim": 32,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}
_FLUX: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 6, 6),
}
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
_COGVIDEO: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 2,
    "text_embed_dim": 8,
    "num_layers": 3,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 5,
    "patch_size": 2,
    "temporal_compression_ratio": 4,
    "max_text_seq_length": 8,
}
_COGVIEW: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 4,
    "num_attention_heads": 4,
    "out_channels": 4,
    "text_embed_dim": 8,
    "time_embed_dim": 8,
    "condition_dim": 4,
}
_LTX: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "num_layers": 2,
    "caption_channels": 16,
}
_LTX2: dict[str, Any] = {
    **_LTX,
    "audio_in_channels": 4,
    "audio_out_channels": 4,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 4,
    "audio_cross_attention_dim": 8,
    "rope_double_precision": False,
}

DENOISERS: dict[str, Denoiser] = {
    "FluxTransformer2DModel": Denoiser(
        {**_FLUX, "pooled_projection_dim": 32},
        _TOKENS,
        _with_ids(32, pooled=_pooled(32)),
        scale=1e-3,
    ),
    "Flux2Transformer2DModel": Denoiser(
        {**_FLUX, "axes_dims_rope": (4, 4, 4, 4)},
        _TOKENS,
        _with_ids(32, 4, guidance=_guidance(4.0)),
        scale=1e-3,
    ),
    "AuraFlowTransformer2DModel": Denoiser(
        {
            "sample_size": 32,
            "patch_size": 2,
            "in_channels": 4,
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "joint_attention_dim": 16,
            "caption_projection_dim": 32,
            "pos_embed_max_size": 256,
        },
        _IMAGE,
        _text(),
        scale=1e-3,
    ),
    "ChromaTransformer2DModel": Denoiser(
        {
            **_FLUX,
            "axes_dims_rope": (4, 4, 8),
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 1,
        },
        _TOKENS,
        _with_ids(32),
        scale=1e-3,
    ),
    "BriaTransformer2DModel": Denoiser(
        {**_FLUX, "attention_head_dim": 8, "axes_dims_rope": [0, 4, 4]},
        _TOKENS,
        _with_ids(32),
        scale=1e-3,
    ),
    "BriaFiboTransformer2DModel": Denoiser(
        {
            **_FLUX,
            "attention_head_dim": 8,
            "text_encoder_dim": 32,
            "axes_dims_rope": [0, 4, 4],
        },
        _TOKENS,
        _with_ids(32, layers=_fibo),
        scale=1e-3,
    ),
    "BriaFibo2Transformer2DModel": Denoiser(
        {
            "in_channels": 4,
            "patch_size": 2,
            "dim": 32,
            "n_layers": 3,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "cap_feat_dim": 24,
            "injection_layer_ids": (1,),
            "perceiver_num_layers": 1,
            "min_num_gist_tokens": 4,
            "max_num_gist_tokens": 8,
            "gist_step": 4,
            "gist_min_text_len": 4,
            "gist_max_text_len": 16,
            "axes_dims": (4, 6, 6),
            "axes_lens": (32, 32, 32),
        },
        _IMAGE,
        lambda d, n, m: {"encoder_hidden_states": d.normal(2, TEXT, 24)},
        scale=1e-3,
    ),
    "CogVideoXTransformer3DModel": Denoiser(_COGVIDEO, lambda n: (2, 4, n, n), _text(8, 8)),
    "CogView3PlusTransformer2DModel": Denoiser(
        {**_COGVIEW, "pos_embed_max_size": 16, "sample_size": 8}, _IMAGE, _sizes
    ),
    "CogView4Transformer2DModel": Denoiser(_COGVIEW, _IMAGE, _sizes),
    "ConsisIDTransformer3DModel": Denoiser(
        {
            **_COGVIDEO,
            "cross_attn_interval": 1,
            "is_train_face": True,
            "cross_attn_dim_head": 1,
            "cross_attn_num_heads": 1,
            "LFE_id_dim": 2,
            "LFE_vit_dim": 2,
            "LFE_depth": 5,
            "LFE_dim_head": 8,
            "LFE_num_heads": 2,
            "LFE_num_id_token": 1,
            "LFE_num_querie": 1,
            "LFE_output_dim": 10,
            "LFE_ff_mult": 1,
            "LFE_num_scale": 1,
        },
        lambda n: (2, 4, n, n),
        _consisid,
    ),
    "CosmosTransformer3DModel": Denoiser(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 2,
            "mlp_ratio": 2,
            "text_embed_dim": WIDTH,
            "adaln_lora_dim": 4,
            "max_size": (4, 32, 32),
            "patch_size": (1, 2, 2),
            "concat_padding_mask": False,  # its resizing needs torchvision
        },
        lambda n: (4, 1, n, n),
        lambda d, n, m: _text()(d, n, m) | {"fps": 30},
    ),
    "DiTTransformer2DModel": Denoiser(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 3,
            "sample_size": 8,
            "num_embeds_ada_norm": 8,
        },
        _IMAGE,
        _class_labels,
        integers=True,
    ),
    "EasyAnimateTransformer3DModel": Denoiser(
        {
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "in_channels": 4,
            "mmdit_layers": 2,
            "num_layers": 3,
            "out_channels": 4,
            "patch_size": 2,
            "text_embed_dim": WIDTH,
            "time_embed_dim": 8,
        },
        _VIDEO,
        _text(),
    ),
    "ErnieImageTransformer2DModel": Denoiser(
        {
            "hidden_size": 16,
            "num_attention_heads": 1,
            "num_layers": 2,
            "ffn_hidden_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "text_in_dim": WIDTH,
            "rope_axes_dim": (8, 4, 4),
        },
        _IMAGE,
        lambda d, n, m: {
            "text_bth": d.normal(TEXT, WIDTH),
            "text_lens": d.full(float(TEXT)).long(),
        },
    ),
    "GlmImageTransformer2DModel": Denoiser(
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "text_embed_dim": 32,
            "time_embed_dim": 16,
            "condition_dim": 8,
            "prior_vq_quantizer_codebook_size": 64,
        },
        _IMAGE,
        _glm,
    ),
    "HeliosTransformer3DModel": Denoiser(
        {
            **{k: v for k, v in _WAN.items() if k != "rope_max_seq_len"},
            "rope_dim": (4, 4, 4),
            "has_multi_term_memory_patch": True,
            "guidance_cross_attn": True,
            "zero_history_timestep": True,
            "is_amplify_history": False,
        },
        _VIDEO,
        _helios,
    ),
    "HiDreamImageTransformer2DModel": Denoiser(
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "caption_channels": [8, 4],
            "text_emb_dim": 8,
            "num_routed_experts": 2,
            "num_activated_experts": 2,
            "axes_dims_rope": (4, 2, 2),
            "max_resolution": (32, 32),
            "llama_layers": (0, 1, 0, 1),
            "force_inference_output": True,
        },
        _IMAGE,
        _hidream,
        timestep="timesteps",
    ),
    "HunyuanDiT2DModel": Denoiser(
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_layers": 4,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "cross_attention_dim": 8,
            "cross_attention_dim_t5": 8,
            "pooled_projection_dim": 4,
            "hidden_size": 16,
            "text_len": 4,
            "text_len_t5": 4,
        },
        _IMAGE,
        _hunyuan_dit,
    ),
    "HunyuanVideoTransformer3DModel": Denoiser(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "patch_size": 2,
            "text_embed_dim": WIDTH,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 4, 4),
        },
        _VIDEO,
        _hunyuan_video,
    ),
    "HunyuanVideo15Transformer3DModel": Denoiser(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "mlp_ratio": 2.0,
            "text_embed_dim": WIDTH,
            "text_embed_2_dim": 8,
            "image_embed_dim": 12,
            "rope_axes_dim": (2, 2, 4),
            "target_size": 16,
            "task_type": "t2v",
        },
        _VIDEO,
        _hunyuan_15,
    ),
    "HunyuanVideoFramepackTransformer3DModel": Denoiser(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "patch_size": 2,
            "text_embed_dim": WIDTH,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 4, 4),
            "has_image_proj": True,
            "image_proj_dim": WIDTH,
            "has_clean_x_embedder": True,
        },
        lambda n: (4, 3, n, n),
        _framepack,
    ),
    "HunyuanImageTransformer2DModel": Denoiser(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "text_embed_dim": WIDTH,
            "rope_axes_dim": (8, 8),
        },
        _IMAGE,
        _masked(boolean=False),
    ),
    "Ideogram4Transformer2DModel": Denoiser(
        {
            "in_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "intermediate_size": 32,
            "adaln_dim": 16,
            "llm_features_dim": 24,
            "rope_theta": 10_000,
            "mrope_section": (2, 1, 1),
        },
        lambda n: (TEXT + n * n, 4),
        _ideogram,
        scale=1e-3,
    ),
    "JoyImageEditTransformer3DModel": Denoiser(_JOY, lambda n: (4, 1, n, n), _text()),
    "JoyImageEditPlusTransformer3DModel": Denoiser(_JOY, lambda n: (n * n, 4, 1, 2, 2), _joy_plus),
    "AllegroTransformer3DModel": Denoiser(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 3,
            "cross_attention_dim": 24,
            "caption_channels": WIDTH,
            "sample_height": 8,
            "sample_width": 8,
            "sample_frames": 2,
        },
        _VIDEO,
        _allegro,
    ),
    "Flux3Transformer2DModel": Denoiser(
        {
            "in_channels": 4,
            "cond_in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 3,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "timestep_channels": 16,
            "axes_dims_rope": (4, 4, 4, 4),
        },
        _TOKENS,
        _with_ids(WIDTH, 4),
        scale=1e-3,
    ),
    "UNetMotionModel": Denoiser(
        {
            "block_out_channels": (16, 32, 32),
            "down_block_types": (
                "DownBlockMotion",
                "CrossAttnDownBlockMotion",
                "CrossAttnDownBlockMotion",
            ),
            "up_block_types": (
                "CrossAttnUpBlockMotion",
                "CrossAttnUpBlockMotion",
                "UpBlockMotion",
            ),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 32,
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
            "motion_max_seq_length": 4,
        },
        _VIDEO,
        _per_frame,
        latents="sample",
    ),
    "Kandinsky5Transformer3DModel": Denoiser(
        {
            "in_visual_dim": 4,
            "in_text_dim": WIDTH,
            "in_text_dim2": 8,
            "time_dim": 16,
            "out_visual_dim": 4,
            "model_dim": 32,
            "ff_dim": 64,
            "num_text_blocks": 1,
            "num_visual_blocks": 2,
            "axes_dims": (4, 6, 6),
        },
        lambda n: (2, n, n, 4),
        _kandinsky,
        rows=False,
    ),
    "Kandinsky6Transformer3DModel": Denoiser(
        {
            "in_visual_dim": 4,
            "out_visual_dim": 4,
            "in_text_dim": 8,
            "in_text_dim2": 8,
            "time_dim": 16,
            "model_dim": 48,
            "ff_dim": 64,
            "num_text_blocks": 1,
            "num_visual_blocks": 2,
            "axes_dims": (4, 4, 4),
            "visual_cond": False,
            "in_audio_dim": 4,
            "out_audio_dim": 4,
        },
        lambda n: (2, n, n, 4),
        _kandinsky6,
    ),
    "Kandinsky6SRTransformer3DModel": Denoiser(
        {
            "in_visual_dim": 4,
            "out_visual_dim": 8,
            "time_dim": 16,
            "patch_size": (1, 2, 2),
            "model_dim": 24,
            "ff_dim": 32,
            "num_visual_blocks": 2,
            "axes_dims": (4, 4, 4),
        },
        lambda n: (2, 16 * (n // 4 - 1), 16 * (n // 4 - 1), 9),  # tokens come in squares of 8
        lambda d, n, m: {},
        guided=False,
    ),
    "Krea2Transformer2DModel": Denoiser(
        {
            "in_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "timestep_embed_dim": 8,
            "text_hidden_dim": WIDTH,
            "num_text_layers": 3,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 1,
            "text_intermediate_size": 16,
            "num_layerwise_text_blocks": 1,
            "num_refiner_text_blocks": 1,
            "axes_dims_rope": (4, 2, 2),
        },
        _TOKENS,
        _krea,
        scale=1e-3,
    ),
    "LatteTransformer3DModel": Denoiser(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "cross_attention_dim": 16,
            "attention_bias": True,
            "sample_size": 8,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "caption_channels": 8,
            "video_length": 2,
        },
        _VIDEO,
        _text(8),
    ),
    "LTXVideoTransformer3DModel": Denoiser(_LTX, lambda n: (2 * n * n, 4), _ltx),
    "LTX2VideoTransformer3DModel": Denoiser(_LTX2, lambda n: (2 * n * n, 4), _ltx2),
    "LuminaNextDiT2DModel": Denoiser(
        {
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 2,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "learn_sigma": False,
            "cross_attention_dim": 32,
        },
        _IMAGE,
        _lumina_next,
        scale=1e-3,
    ),
    "Lumina2Transformer2DModel": Denoiser(
        {
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 2,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (128, 128, 128),
            "cap_feat_dim": 32,
        },
        _IMAGE,
        _masked(32),
        scale=1e-3,
    ),
    "MochiTransformer3DModel": Denoiser(
        {
            "patch_size": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "pooled_projection_dim": 16,
            "in_channels": 4,
            "text_embed_dim": WIDTH,
            "time_embed_dim": 4,
            "max_sequence_length": 16,
        },
        _VIDEO,
        _masked(tokens=16),
    ),
    "OmniGenTransformer2DModel": Denoiser(
        {
            "hidden_size": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 32,
            "num_layers": 3,
            "pad_token_id": 0,
            "vocab_size": 100,
            "in_channels": 4,
            "time_step_dim": 4,
            "rope_scaling": {"long_factor": [1, 2], "short_factor": [1, 2]},
        },
        _IMAGE,
        _omnigen,
        scale=1e-3,
    ),
    "OvisImageTransformer2DModel": Denoiser(
        {**_FLUX, "axes_dims_rope": (4, 4, 8), "out_channels": 4},
        _TOKENS,
        _with_ids(32),
        scale=1e-3,
    ),
    "PRXTransformer2DModel": Denoiser(
        {
            "in_channels": 4,
            "patch_size": 2,
            "context_in_dim": WIDTH,
            "hidden_size": 32,
            "num_heads": 2,
            "depth": 3,
            "axes_dim": [8, 8],
        },
        _IMAGE,
        _text(),
        scale=1e-3,
    ),
    "PixArtTransformer2DModel": Denoiser(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 3,
            "cross_attention_dim": 16,
            "sample_size": 8,
            "caption_channels": 8,
            "use_additional_conditions": False,
        },
        _IMAGE,
        lambda d, n, m: (
            _masked(8)(d, n, m) | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
        ),
    ),
    "PriorTransformer": Denoiser(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 4,
            "num_layers": 3,
            "embedding_dim": 8,
            "num_embeddings": 7,
            "additional_embeddings": 4,
        },
        lambda n: (8,),
        _prior,
    ),
    "QwenImageTransformer2DModel": Denoiser(
        {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "axes_dims_rope": (8, 4, 4),
        },
        lambda n: (n * n, 16),
        _qwen,
        scale=1e-3,
    ),
    "QwenImage21Transformer2DModel": Denoiser(
        {
            "patch_size": 1,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "context_in_dim": 8,
            "mlp_ratio": 2,
            "axes_dims_rope": (4, 6, 6),
        },
        _TOKENS,
        _qwen21,
        scale=1e-3,
        tail=True,
    ),
    "SanaTransformer2DModel": Denoiser(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 4,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 4,
            "cross_attention_dim": 8,
            "caption_channels": 8,
            "sample_size": 32,
        },
        _IMAGE,
        _masked(8),
    ),
    "SanaVideoTransformer3DModel": Denoiser(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 12,
            "cross_attention_dim": 24,
            "caption_channels": WIDTH,
            "sample_size": 8,
            "rope_max_seq_len": 32,
        },
        _VIDEO,
        _text(),
    ),
    "SD3Transformer2DModel": Denoiser(
        {
            "sample_size": 32,
            "patch_size": 2,
            "in_channels": 4,
            "num_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "joint_attention_dim": 32,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 16,
            "out_channels": 4,
        },
        _IMAGE,
        lambda d, n, m: _text(32)(d, n, m) | _pooled(16)(d, n, m),
    ),
    "SkyReelsV2Transformer3DModel": Denoiser(_WAN, _VIDEO, _text()),
    "StableAudioDiTModel": Denoiser(
        {
            "sample_size": 4,
            "in_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 4,
            "num_attention_heads": 2,
            "num_key_value_attention_heads": 2,
            "out_channels": 4,
            "cross_attention_dim": 4,
            "time_proj_dim": 8,
            "global_states_input_dim": 8,
            "cross_attention_input_dim": 4,
        },
        lambda n: (4, n),
        _stable_audio,
        scale=1e-3,
    ),
    "StableAudio3DiTModel": Denoiser(
        {
            "io_channels": 4,
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 4,
            "cond_token_dim": WIDTH,
            "global_cond_dim": 12,
            "local_add_cond_dim": 5,
            "timestep_features_dim": 16,
            "ff_mult": 2,
            "num_memory_tokens": 3,
            "use_differential_attention": False,
        },
        lambda n: (4, n),
        _stable_audio3,
        scale=1e-3,
    ),
    "Transformer2DModel": Denoiser(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "num_layers": 3,
            "norm_num_groups": 4,
            "cross_attention_dim": WIDTH,
        },
        _IMAGE,
        _text(),
    ),
    "DreamLiteTransformer2DModel": Denoiser(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "num_layers": 3,
            "norm_num_groups": 4,
            "cross_attention_dim": WIDTH,
        },
        _IMAGE,
        _text(),
    ),
    "WanTransformer3DModel": Denoiser(_WAN, _VIDEO, _text()),
    "ChronoEditTransformer3DModel": Denoiser(_WAN, _VIDEO, _text()),
    "WanVACETransformer3DModel": Denoiser(
        {**_WAN, "vace_layers": [0, 2], "vace_in_channels": 12}, _VIDEO, _vace
    ),
    "WanAnimateTransformer3DModel": Denoiser(
        {
            **_WAN,
            "num_layers": 4,
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": WIDTH,
            "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 16,
            "face_encoder_hidden_dim": 16,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 2,
        },
        lambda n: (12, 21, n, n),
        _animate,
    ),
    "AnyFlowTransformer3DModel": Denoiser(
        {**_WAN, "gate_value": 0.25, "deltatime_type": "r"},
        lambda n: (2, 4, n, n),
        _anyflow,
        clock=lambda n: (2,),
    ),
    "ZImageTransformer2DModel": Denoiser(
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": WIDTH,
            "axes_dims": [4, 6, 6],
            "axes_lens": [256, 32, 32],
        },
        lambda n: (4, 1, n, n),
        _z_image,
        latents="x",
        timestep="t",
        scale=1e-3,
        listed=True,
    ),
    "LongCatImageTransformer2DModel": Denoiser(
        {**_FLUX, "pooled_projection_dim": 32, "axes_dims_rope": [4, 6, 6]},
        _TOKENS,
        _with_ids(32),
        scale=1e-3,
    ),
    "LongCatAudioDiTTransformer": Denoiser(
        {
            "dit_dim": 64,
            "dit_depth": 2,
            "dit_heads": 4,
            "dit_text_dim": 32,
            "latent_dim": 4,
            "text_conv": False,
        },
        lambda n: (n, 4),
        _longcat_audio,
        scale=1e-3,
    ),
    "MiniMaxMusic3Transformer1DModel": Denoiser(
        {
            "in_channels": 4,
            "condition_dim": WIDTH,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "ff_inner_dim": 32,
            "rotary_dim": 4,
            "fourier_embedding_dim": 8,
        },
        lambda n: (4, n),
        lambda d, n, m: {"encoder_hidden_states": d.normal(n, WIDTH)},
        scale=1e-3,
    ),
    "MiniMaxH3Transformer3DModel": Denoiser(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "hidden_size": 24,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "ffn_dim": 32,
            "in_channels": 4,
            "audio_in_channels": 6,
            "patch_size": (1, 2, 2),
            "text_dim": 8,
            "freq_dim": 8,
            "time_embed_hidden_dim": 24,
            "time_embed_dim": 16,
            "rope_freq_dim": 2,
        },
        lambda n: (n * n, 16),
        _minimax,
        scale=1e-3,
    ),
    "MotifVideoTransformer3DModel": Denoiser(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_decoder_layers": 0,
            "patch_size": 1,
            "text_embed_dim": WIDTH,
            "image_embed_dim": 4,
            "norm_type": "layer_norm",
            "rope_axes_dim": (4, 4, 4),
            "enable_text_cross_attention_dual": False,
            "enable_text_cross_attention_single": False,
        },
        _VIDEO,
        _text(),
    ),
    "NucleusMoEImageTransformer2DModel": Denoiser(
        {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": WIDTH,
            "axes_dims_rope": (8, 4, 4),
            "moe_enabled": False,
            "capacity_factors": [8.0, 8.0],
        },
        lambda n: (n * n, 16),
        _qwen,
        scale=1e-3,
    ),
    "AceStepTransformer1DModel": Denoiser(
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "in_channels": 24,
            "audio_acoustic_hidden_dim": 8,
            "sliding_window": 16,
        },
        lambda n: (n, 8),
        _ace,
        scale=1e-3,
    ),
    "SanaWMLTX2RefinerTransformer3DModel": Denoiser(
        _LTX2, lambda n: (2 * n * n, 4), _refiner, clock=lambda n: (2 * n * n,)
    ),
    "UNet2DConditionModel": Denoiser(_UNET, _IMAGE, _text(32), latents="sample"),
    "UNet2DConditionModel (SDXL)": Denoiser(
        {
            **_UNET,
            "transformer_layers_per_block": (1, 1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 80,
        },
        _IMAGE,
        _sdxl,
        latents="sample",
    ),
    "UNetSpatioTemporalConditionModel": Denoiser(
        {
            **{
                k: v for k, v in _UNET.items() if k not in ("norm_num_groups", "attention_head_dim")
            },
            "in_channels": 8,
            "block_out_channels": (32, 64, 64),
            "num_attention_heads": (2, 4, 4),
            "down_block_types": (
                "DownBlockSpatioTemporal",
                "CrossAttnDownBlockSpatioTemporal",
                "CrossAttnDownBlockSpatioTemporal",
            ),
            "up_block_types": (
                "CrossAttnUpBlockSpatioTemporal",
                "CrossAttnUpBlockSpatioTemporal",
                "UpBlockSpatioTemporal",
            ),
            "projection_class_embeddings_input_dim": 96,
            "addition_time_embed_dim": 32,
        },
        lambda n: (2, 8, n, n),
        _svd,
        latents="sample",
    ),
}


def fit(prediction: Any, latents: Tensor, *, tail: bool) -> Tensor:
    """Bring a prediction to the shape of the latents: spare channels are cut, missing ones zero."""
    if isinstance(prediction, list):
        prediction = torch.stack(prediction)
    if prediction.shape == latents.shape:
        whole: Tensor = prediction
        return whole
    if tail:
        return torch.as_tensor(prediction)[:, -latents.shape[1] :]
    flat = prediction.reshape(len(latents), -1)[:, : latents[0].numel()]
    missing = latents[0].numel() - flat.shape[1]
    return nn.functional.pad(flat, (0, missing)).reshape(latents.shape)
