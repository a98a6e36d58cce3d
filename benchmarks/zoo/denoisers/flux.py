"""FLUX, and image models that are called as it is: packed latents beside ids of every token."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.zoo.denoisers.row import (
    IMAGE,
    TEXT,
    TOKENS,
    WIDTH,
    Inputs,
    Specimen,
    guidance,
    pooled,
)
from benchmarks.zoo.draws import Draw, grid


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


def _fibo(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"text_encoder_layers": [d.normal(TEXT, 32) for _ in range(4)]}


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

ROWS: dict[str, Specimen] = {
    "FluxTransformer2DModel": Specimen(
        {**_FLUX, "pooled_projection_dim": 32},
        TOKENS,
        _with_ids(32, pooled=pooled(32)),
        scale=1e-3,
    ),
    "Flux2Transformer2DModel": Specimen(
        {**_FLUX, "axes_dims_rope": (4, 4, 4, 4)},
        TOKENS,
        _with_ids(32, 4, guidance=guidance(4.0)),
        scale=1e-3,
    ),
    "ChromaTransformer2DModel": Specimen(
        {
            **_FLUX,
            "axes_dims_rope": (4, 4, 8),
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 1,
        },
        TOKENS,
        _with_ids(32),
        scale=1e-3,
    ),
    "BriaTransformer2DModel": Specimen(
        {**_FLUX, "attention_head_dim": 8, "axes_dims_rope": [0, 4, 4]},
        TOKENS,
        _with_ids(32),
        scale=1e-3,
    ),
    "BriaFiboTransformer2DModel": Specimen(
        {
            **_FLUX,
            "attention_head_dim": 8,
            "text_encoder_dim": 32,
            "axes_dims_rope": [0, 4, 4],
        },
        TOKENS,
        _with_ids(32, layers=_fibo),
        scale=1e-3,
    ),
    "BriaFibo2Transformer2DModel": Specimen(
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
        IMAGE,
        lambda d, n, m: {"encoder_hidden_states": d.normal(2, TEXT, 24)},
        scale=1e-3,
    ),
    "Flux3Transformer2DModel": Specimen(
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
        TOKENS,
        _with_ids(WIDTH, 4),
        scale=1e-3,
    ),
    "OvisImageTransformer2DModel": Specimen(
        {**_FLUX, "axes_dims_rope": (4, 4, 8), "out_channels": 4},
        TOKENS,
        _with_ids(32),
        scale=1e-3,
    ),
    "LongCatImageTransformer2DModel": Specimen(
        {**_FLUX, "pooled_projection_dim": 32, "axes_dims_rope": [4, 6, 6]},
        TOKENS,
        _with_ids(32),
        scale=1e-3,
    ),
}
