"""Image models that look at their text, or at a class, from outside of the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.zoo.denoisers.row import IMAGE, TEXT, WIDTH, Specimen, masked, qwen, text
from benchmarks.zoo.draws import Draw


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


def _lumina_next(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    angles = torch.arange(32)[:, None, None] * torch.linspace(0.1, 1, 4)[None, None]
    return {
        "encoder_hidden_states": d.normal(TEXT, 32),
        "encoder_mask": d.full(1.0, TEXT),
        "image_rotary_emb": torch.polar(torch.ones(32, 32, 4), angles.expand(32, 32, 4)),
        "cross_attention_kwargs": {},
    }


def _prior(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"proj_embedding": d.normal(8), "encoder_hidden_states": d.normal(7, 8)}


def _class_labels(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"class_labels": d.integers(8)}


ROWS: dict[str, Specimen] = {
    "DiTTransformer2DModel": Specimen(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 3,
            "sample_size": 8,
            "num_embeds_ada_norm": 8,
        },
        IMAGE,
        _class_labels,
        integers=True,
    ),
    "HunyuanDiT2DModel": Specimen(
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
        IMAGE,
        _hunyuan_dit,
    ),
    "LuminaNextDiT2DModel": Specimen(
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
        IMAGE,
        _lumina_next,
        scale=1e-3,
    ),
    "PRXTransformer2DModel": Specimen(
        {
            "in_channels": 4,
            "patch_size": 2,
            "context_in_dim": WIDTH,
            "hidden_size": 32,
            "num_heads": 2,
            "depth": 3,
            "axes_dim": [8, 8],
        },
        IMAGE,
        text(),
        scale=1e-3,
    ),
    "PixArtTransformer2DModel": Specimen(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 3,
            "cross_attention_dim": 16,
            "sample_size": 8,
            "caption_channels": 8,
            "use_additional_conditions": False,
        },
        IMAGE,
        lambda d, n, m: (
            masked(8)(d, n, m) | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
        ),
    ),
    "PriorTransformer": Specimen(
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
    "SanaTransformer2DModel": Specimen(
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
        IMAGE,
        masked(8),
    ),
    "Transformer2DModel": Specimen(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "num_layers": 3,
            "norm_num_groups": 4,
            "cross_attention_dim": WIDTH,
        },
        IMAGE,
        text(),
    ),
    "DreamLiteTransformer2DModel": Specimen(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "num_layers": 3,
            "norm_num_groups": 4,
            "cross_attention_dim": WIDTH,
        },
        IMAGE,
        text(),
    ),
    "NucleusMoEImageTransformer2DModel": Specimen(
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
        qwen,
        scale=1e-3,
    ),
}
