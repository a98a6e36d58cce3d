"""Image models with a stream of text and one of the image, which attend to each other."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.zoo.denoisers.row import IMAGE, TEXT, WIDTH, Specimen, masked, pooled, qwen, text
from benchmarks.zoo.draws import Draw


def _sizes(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(8, 8),
        "original_size": d.full(8.0 * n, 2),
        "target_size": d.full(8.0 * n, 2),
        "crop_coords": d.full(0.0, 2),
    }


def _glm(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, 32),
        "prior_token_id": d.integers(64, n * n // 4),
        "prior_token_drop": d.full(0.0, n * n // 4).bool(),
        "target_size": d.full(float(n), 2),
        "crop_coords": d.full(0.0, 2),
    }


def _hidream(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states_t5": d.normal(TEXT, 8),
        "encoder_hidden_states_llama3": d.normal(2, TEXT, 4).transpose(0, 1).contiguous(),
        "pooled_embeds": d.normal(8),
    }


def _joy_plus(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "encoder_hidden_states_mask": d.full(1.0, TEXT),
        "shape_list": [[(1, n, n)]] * d.rows,
    }


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

ROWS: dict[str, Specimen] = {
    "AuraFlowTransformer2DModel": Specimen(
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
        IMAGE,
        text(),
        scale=1e-3,
    ),
    "CogView3PlusTransformer2DModel": Specimen(
        {**_COGVIEW, "pos_embed_max_size": 16, "sample_size": 8}, IMAGE, _sizes
    ),
    "CogView4Transformer2DModel": Specimen(_COGVIEW, IMAGE, _sizes),
    "GlmImageTransformer2DModel": Specimen(
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
        IMAGE,
        _glm,
    ),
    "HiDreamImageTransformer2DModel": Specimen(
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
        IMAGE,
        _hidream,
        timestep="timesteps",
    ),
    "HunyuanImageTransformer2DModel": Specimen(
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
        IMAGE,
        masked(boolean=False),
    ),
    "JoyImageEditTransformer3DModel": Specimen(_JOY, lambda n: (4, 1, n, n), text()),
    "JoyImageEditPlusTransformer3DModel": Specimen(_JOY, lambda n: (n * n, 4, 1, 2, 2), _joy_plus),
    "QwenImageTransformer2DModel": Specimen(
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
        qwen,
        scale=1e-3,
    ),
    "SD3Transformer2DModel": Specimen(
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
        IMAGE,
        lambda d, n, m: text(32)(d, n, m) | pooled(16)(d, n, m),
    ),
}
