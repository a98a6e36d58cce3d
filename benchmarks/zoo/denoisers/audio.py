"""Models of sound."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.zoo.denoisers.row import TEXT, WIDTH, Specimen, masked
from benchmarks.zoo.draws import Draw


def _stable_audio(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    return {
        "encoder_hidden_states": d.normal(TEXT, 4),
        "global_hidden_states": d.normal(1, 8),
        "rotary_embedding": get_1d_rotary_pos_embed(2, n + 1, use_real=True),
    }


def _stable_audio3(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {"encoder_hidden_states": d.normal(4, WIDTH), "global_hidden_states": d.normal(12)}


def _longcat_audio(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return masked(32)(d, n, m) | {"attention_mask": d.full(1.0, n).bool()}


def _ace(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "timestep_r": d.full(0.5),
        "encoder_hidden_states": d.normal(TEXT, 32),
        "context_latents": d.normal(n, 16),
    }


ROWS: dict[str, Specimen] = {
    "StableAudioDiTModel": Specimen(
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
    "StableAudio3DiTModel": Specimen(
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
    "LongCatAudioDiTTransformer": Specimen(
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
    "MiniMaxMusic3Transformer1DModel": Specimen(
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
    "AceStepTransformer1DModel": Specimen(
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
}
