"""Video models that look at their text from outside of the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.zoo.denoisers.row import TEXT, VIDEO, WIDTH, Specimen, masked, text
from benchmarks.zoo.denoisers.video_wan import _WAN
from benchmarks.zoo.draws import Draw


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


def _ltx(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return masked()(d, n, m) | {"num_frames": 2, "height": n, "width": n}


def _ltx2(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        **_ltx(d, n, m),
        "audio_hidden_states": d.normal(9, 4),
        "audio_encoder_hidden_states": d.normal(TEXT, WIDTH),
        "audio_num_frames": 9,
        "fps": 25.0,
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


def _camera(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[1, 0, 3] = 0.1  # the second frame is seen from a step to the side
    lens = torch.tensor([n, n, n / 2, n / 2])
    camera = torch.cat([poses.reshape(2, 16), lens.expand(2, 4)], dim=1)
    return {
        "encoder_hidden_states": d.normal(1, TEXT, WIDTH),
        "encoder_attention_mask": d.full(1.0, TEXT),
        "camera_conditions": camera.expand(d.rows, -1, -1),
        "chunk_plucker": d.normal(6, 2, n, n),
    }


def _refiner(d: Draw, n: int, m: Any) -> dict[str, Any]:
    rope = m.build_rotary_emb_for_absolute_positions(
        batch_size=d.rows, frame_positions=[0, 1], height=n, width=n, device="cpu", fps=24.0
    )
    return masked(boolean=False)(d, n, m) | {"video_rotary_emb": rope}


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
ROWS: dict[str, Specimen] = {
    "CosmosTransformer3DModel": Specimen(
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
        lambda d, n, m: text()(d, n, m) | {"fps": 30},
    ),
    "HeliosTransformer3DModel": Specimen(
        {
            **{k: v for k, v in _WAN.items() if k != "rope_max_seq_len"},
            "rope_dim": (4, 4, 4),
            "has_multi_term_memory_patch": True,
            "guidance_cross_attn": True,
            "zero_history_timestep": True,
            "is_amplify_history": False,
        },
        VIDEO,
        _helios,
    ),
    "AllegroTransformer3DModel": Specimen(
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
        VIDEO,
        _allegro,
    ),
    "Kandinsky5Transformer3DModel": Specimen(
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
    "Kandinsky6Transformer3DModel": Specimen(
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
    "Kandinsky6SRTransformer3DModel": Specimen(
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
    "LatteTransformer3DModel": Specimen(
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
        VIDEO,
        text(8),
    ),
    "LTXVideoTransformer3DModel": Specimen(_LTX, lambda n: (2 * n * n, 4), _ltx),
    "LTX2VideoTransformer3DModel": Specimen(_LTX2, lambda n: (2 * n * n, 4), _ltx2),
    "SanaVideoTransformer3DModel": Specimen(
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
        VIDEO,
        text(),
    ),
    "SanaWMTransformer3DModel": Specimen(
        {
            "in_channels": 4,
            "num_layers": 4,
            "hidden_size": 16,
            "num_attention_heads": 1,
            "linear_head_dim": 16,
            "softmax_every_n": 2,
            "chunk_plucker_channels": 6,
            "caption_channels": WIDTH,
            "mlp_ratio": 1.0,
        },
        VIDEO,
        _camera,
        clock=lambda n: (1, 2),
    ),
    "SanaWMLTX2RefinerTransformer3DModel": Specimen(
        _LTX2, lambda n: (2 * n * n, 4), _refiner, clock=lambda n: (2 * n * n,)
    ),
}
