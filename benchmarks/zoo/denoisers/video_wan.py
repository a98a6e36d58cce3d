"""Video models of Wan's shape."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.zoo.denoisers.row import TEXT, VIDEO, WIDTH, Specimen, text
from benchmarks.zoo.draws import Draw


def _animate(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "encoder_hidden_states_image": d.normal(TEXT, WIDTH),
        "pose_hidden_states": d.normal(4, 20, n, n),
        "face_pixel_values": d.normal(3, 77, 16, 16),
    }


def _vace(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return text()(d, n, m) | {"control_hidden_states": d.normal(12, 2, n, n)}


def _anyflow(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    return text()(d, n, m) | {"r_timestep": d.full(250.0, 2)}


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

ROWS: dict[str, Specimen] = {
    "SkyReelsV2Transformer3DModel": Specimen(_WAN, VIDEO, text()),
    "WanTransformer3DModel": Specimen(_WAN, VIDEO, text()),
    "ChronoEditTransformer3DModel": Specimen(_WAN, VIDEO, text()),
    "WanVACETransformer3DModel": Specimen(
        {**_WAN, "vace_layers": [0, 2], "vace_in_channels": 12}, VIDEO, _vace
    ),
    "WanAnimateTransformer3DModel": Specimen(
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
    "AnyFlowTransformer3DModel": Specimen(
        {**_WAN, "gate_value": 0.25, "deltatime_type": "r"},
        lambda n: (2, 4, n, n),
        _anyflow,
        clock=lambda n: (2,),
    ),
}
