"""Image models that run text and image through their blocks as one sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.zoo.denoisers.row import IMAGE, TEXT, TOKENS, WIDTH, Specimen, masked
from benchmarks.zoo.draws import Draw, grid


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


def _krea(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, 3, WIDTH),
        "position_ids": torch.cat([torch.zeros(TEXT, 3), grid(n, n, axes=3)]),
        "encoder_attention_mask": d.full(1.0, TEXT).bool(),
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


def _qwen21(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    seen = torch.cat([torch.zeros(4), torch.ones(n * n // 4)]).bool()
    return {
        "encoder_hidden_states": d.normal(4, 8),
        "encoder_hidden_states_mask": d.full(1.0, 4).long(),
        "img_shapes": [[(1, n, n)]] * d.rows,
        "img_mask": seen.expand(d.rows, -1),
    }


def _z_image(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"cap_feats": list(d.normal(TEXT, WIDTH))}


ROWS: dict[str, Specimen] = {
    "ErnieImageTransformer2DModel": Specimen(
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
        IMAGE,
        lambda d, n, m: {
            "text_bth": d.normal(TEXT, WIDTH),
            "text_lens": d.full(float(TEXT)).long(),
        },
    ),
    "Ideogram4Transformer2DModel": Specimen(
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
    "Krea2Transformer2DModel": Specimen(
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
        TOKENS,
        _krea,
        scale=1e-3,
    ),
    "Lumina2Transformer2DModel": Specimen(
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
        IMAGE,
        masked(32),
        scale=1e-3,
    ),
    "OmniGenTransformer2DModel": Specimen(
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
        IMAGE,
        _omnigen,
        scale=1e-3,
    ),
    "QwenImage21Transformer2DModel": Specimen(
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
        TOKENS,
        _qwen21,
        scale=1e-3,
        tail=True,
    ),
    "ZImageTransformer2DModel": Specimen(
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
}
