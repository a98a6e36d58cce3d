"""Video models whose text and frames attend to each other as one sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.zoo.denoisers.row import (
    TEXT,
    VIDEO,
    WIDTH,
    Specimen,
    guidance,
    masked,
    pooled,
    text,
)
from benchmarks.zoo.draws import Draw


def _consisid(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(8, 8),
        "id_vit_hidden": [d.normal(2, 2)],
        "id_cond": d.normal(2),
    }


def _hunyuan_video(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return masked(boolean=False)(d, n, m) | pooled(8)(d, n, m) | guidance(6000.0)(d, n, m)


def _hunyuan_15(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        **masked(boolean=False)(d, n, m),
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

ROWS: dict[str, Specimen] = {
    "CogVideoXTransformer3DModel": Specimen(_COGVIDEO, lambda n: (2, 4, n, n), text(8, 8)),
    "ConsisIDTransformer3DModel": Specimen(
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
    "EasyAnimateTransformer3DModel": Specimen(
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
        VIDEO,
        text(),
    ),
    "HunyuanVideoTransformer3DModel": Specimen(
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
        VIDEO,
        _hunyuan_video,
    ),
    "HunyuanVideo15Transformer3DModel": Specimen(
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
        VIDEO,
        _hunyuan_15,
    ),
    "HunyuanVideoFramepackTransformer3DModel": Specimen(
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
    "MochiTransformer3DModel": Specimen(
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
        VIDEO,
        masked(tokens=16),
    ),
    "MiniMaxH3Transformer3DModel": Specimen(
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
    "MotifVideoTransformer3DModel": Specimen(
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
        VIDEO,
        text(),
    ),
}
