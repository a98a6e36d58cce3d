"""Transformers of published shapes with random weights, and the least of a pipeline around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A transformer and what it is called with.

    Attributes:
        kind: Class name in diffusers.
        config: Arguments of its constructor.
        layers: Names in it that count blocks; lowered together where memory is short.
        latents: Shape of one latent.
        inputs: Shapes of the other tensors by argument name; one row each unless in `shared`.
        shared: Arguments without rows.
        scale: What the scheduler's timestep is divided by.
    """

    kind: str
    config: Mapping[str, Any]
    layers: tuple[str, ...]
    latents: tuple[int, ...]
    inputs: Mapping[str, tuple[int, ...]]
    shared: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scale: float = 1.0


SHAPES: dict[str, PublishedModel] = {
    "flux": PublishedModel(
        "FluxTransformer2DModel",
        {
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
        ("num_layers", "num_single_layers"),
        (4096, 64),
        {"encoder_hidden_states": (512, 4096), "pooled_projections": (768,), "guidance": ()},
        {"img_ids": (4096, 3), "txt_ids": (512, 3)},
        scale=1000.0,
    ),
    "sd3": PublishedModel(
        "SD3Transformer2DModel",
        {
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "sample_size": 128,
            "pos_embed_max_size": 192,
            "out_channels": 16,
        },
        ("num_layers",),
        (16, 128, 128),
        {"encoder_hidden_states": (333, 4096), "pooled_projections": (2048,)},
    ),
    "wan": PublishedModel(
        "WanTransformer3DModel",
        {
            "num_layers": 30,
            "attention_head_dim": 128,
            "num_attention_heads": 12,
            "ffn_dim": 8960,
            "text_dim": 4096,
        },
        ("num_layers",),
        (16, 21, 60, 104),
        {"encoder_hidden_states": (512, 4096)},
    ),
}


class ShapeLoop:
    """The least that a pipeline is: a transformer, a scheduler, and a call that uses both."""

    def __init__(
        self, shape: PublishedModel, layers: Mapping[str, int], device: str, dtype: Any
    ) -> None:
        import diffusers

        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        with torch.device(device):
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                kind = getattr(diffusers, shape.kind)
                self.transformer: nn.Module = kind(**{**shape.config, **layers}).eval()
            finally:
                torch.set_default_dtype(before)
        self.device = torch.device(device)
        make = torch.Generator(device).manual_seed(0)

        def normal(size: tuple[int, ...]) -> Tensor:
            return torch.randn(size, generator=make, device=device).to(dtype)

        self._latents = normal((1, *shape.latents))
        self._inputs = {name: normal((1, *size)) for name, size in shape.inputs.items()}
        self._inputs |= {n: torch.zeros(size, device=device) for n, size in shape.shared.items()}
        self._scale = shape.scale

    @torch.no_grad()
    def __call__(self, *, num_inference_steps: int) -> Tensor:
        """Denoise."""
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        latents = self._latents
        for t in self.scheduler.timesteps:
            given = (t / self._scale).expand(1).to(latents.dtype)
            output = self.transformer(
                hidden_states=latents, timestep=given, **self._inputs, return_dict=False
            )[0]
            latents = self.scheduler.step(output, t, latents, return_dict=False)[0]
        return latents


def fitting_layers(shape: PublishedModel, most_bytes: int, itemsize: int) -> dict[str, int]:
    """Choose how many blocks are built: all, or the same share of every list, at least one."""
    import diffusers

    def size(layers: Mapping[str, int]) -> int:
        with torch.device("meta"):
            model = getattr(diffusers, shape.kind)(**{**shape.config, **layers})
        return int(sum(p.numel() for p in model.parameters())) * itemsize

    whole = {name: int(shape.config[name]) for name in shape.layers}
    least = dict.fromkeys(shape.layers, 1)
    full, base = size(whole), size(least)
    if full <= most_bytes:
        return whole
    share = max(0.0, (most_bytes - base) / (full - base))
    return {name: max(1, int(count * share)) for name, count in whole.items()}
