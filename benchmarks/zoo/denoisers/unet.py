"""U-Nets: their site is the deep branch."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.zoo.denoisers.row import IMAGE, TEXT, VIDEO, Specimen, text
from benchmarks.zoo.draws import Draw


def _per_frame(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"encoder_hidden_states": d.normal(TEXT, 32).repeat_interleave(2, dim=0)}


def _sdxl(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    added = {"text_embeds": d.normal(32), "time_ids": d.full(32.0, 6)}
    return {"encoder_hidden_states": d.normal(TEXT, 32), "added_cond_kwargs": added}


def _svd(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"encoder_hidden_states": d.normal(1, 32), "added_time_ids": d.full(7.0, 3)}


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

ROWS: dict[str, Specimen] = {
    "UNetMotionModel": Specimen(
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
        VIDEO,
        _per_frame,
        latents="sample",
    ),
    "UNet2DConditionModel": Specimen(_UNET, IMAGE, text(32), latents="sample"),
    "UNet2DConditionModel (SDXL)": Specimen(
        {
            **_UNET,
            "transformer_layers_per_block": (1, 1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 80,
        },
        IMAGE,
        _sdxl,
        latents="sample",
    ),
    "UNetSpatioTemporalConditionModel": Specimen(
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
