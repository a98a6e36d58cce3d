"""What `train_transformer` trains: a transformer with its text encoders, one class per pipeline.

Each calls its parts as its pipeline class does when it samples. Nothing is trained here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FluxPipeline,
    ModelMixin,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ditcache_rl.shapes import CALL, GUIDED_CALL, GUIDED_SEQUENCE_LENGTH, MAX_SEQUENCE_LENGTH
from ditcache_rl.shapes.recipe.components import (
    build_clip,
    build_flux_transformer,
    build_joint_transformer,
    build_projected_clip,
    build_scheduler,
    build_t5,
    build_tokenizer,
)
from ditcache_rl.shapes.recipe.scenes import MOST_BEHIND


class Batch(NamedTuple):
    """Noisy latents with their captions, and what they were made of."""

    clean: Tensor
    """(B, 4, 16, 16) normalised latents."""
    noise: Tensor
    """(B, 4, 16, 16)."""
    sigma: Tensor
    """(B,) noise level in [0, 1]."""
    guidance: Tensor
    """(B,) scale for models that embed one."""
    tokens: Tensor
    """(B, caption length) int64."""

    @property
    def noisy(self) -> Tensor:
        """Mix data and noise at the noise level: (B, 4, 16, 16)."""
        return torch.lerp(self.clean, self.noise, self.sigma[:, None, None, None])


class Denoiser(nn.Module, ABC):
    """A transformer with its text encoders: noisy latents and captions in, velocity out.

    Every block starts as the identity and the output as zero.

    Attributes:
        call: Arguments that a call of the pipeline needs.
        behind: Most objects behind the first one in the scenes that it draws.
        run: The transformer's forward, or that compiled.
    """

    call: ClassVar[Mapping[str, Any]]
    behind: ClassVar[int]

    def __init__(self, transformer: ModelMixin, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.transformer, self.tokenizer = transformer, tokenizer
        started = [
            layer
            for name, layer in transformer.named_modules()
            if "transformer_blocks." in name and name.endswith("linear") and ".norm" in name
        ]
        for layer in (*started, transformer.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.run: Callable[..., tuple[Tensor]] = transformer.forward

    def tokens_of(self, captions: list[str]) -> Tensor:
        """Return the tokens of captions, padded as the pipeline pads: (B, caption length) int64."""
        padded = self.tokenizer(
            captions,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        tokens: Tensor = padded["input_ids"]
        return tokens

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Predict noise - data: (B, 4, 16, 16)."""

    @abstractmethod
    def pipeline(self, vae: AutoencoderKL) -> DiffusionPipeline:
        """Put the parts together as they are."""


class FluxDenoiser(Denoiser):
    """One branch, one object: T5 tokens attend with the image, CLIP modulates every block."""

    call = MappingProxyType(CALL)
    behind = 0

    def __init__(self) -> None:
        super().__init__(build_flux_transformer(), build_tokenizer(MAX_SEQUENCE_LENGTH))
        self.clip, self.t5 = build_clip(), build_t5()

    def forward(self, batch: Batch) -> Tensor:
        """Predict noise - data: (B, 4, 16, 16)."""
        noisy, tokens = batch.noisy, batch.tokens
        height, width = noisy.shape[2:]
        image_ids = FluxPipeline._prepare_latent_image_ids(
            1, height // 2, width // 2, noisy.device, noisy.dtype
        )
        velocity = self.run(
            hidden_states=FluxPipeline._pack_latents(noisy, *noisy.shape),
            encoder_hidden_states=self.t5(tokens)[0],
            pooled_projections=self.clip(tokens).pooler_output,
            timestep=batch.sigma,
            img_ids=image_ids,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=noisy.device),
            guidance=batch.guidance,
            return_dict=False,
        )[0]
        unpacked: Tensor = FluxPipeline._unpack_latents(velocity, height, width, 1)
        return unpacked

    def pipeline(self, vae: AutoencoderKL) -> FluxPipeline:
        """Put the parts together as they are."""
        return FluxPipeline(
            scheduler=build_scheduler(),
            vae=vae,
            text_encoder=self.clip,
            tokenizer=self.tokenizer,
            text_encoder_2=self.t5,
            tokenizer_2=self.tokenizer,
            transformer=self.transformer,
        )


class JointDenoiser(Denoiser):
    """Two branches, several objects: tokens of two CLIPs side by side, then those of T5, attend."""

    call = MappingProxyType(GUIDED_CALL)
    behind = MOST_BEHIND

    def __init__(self) -> None:
        super().__init__(build_joint_transformer(), build_tokenizer(GUIDED_SEQUENCE_LENGTH))
        self.clips = nn.ModuleList([build_projected_clip(), build_projected_clip()])
        self.t5 = build_t5()

    def forward(self, batch: Batch) -> Tensor:
        """Predict noise - data: (B, 4, 16, 16)."""
        encoded = [clip(batch.tokens, output_hidden_states=True) for clip in self.clips]
        # The pipeline reads the tokens of CLIP before its last layer.
        tokens = torch.cat([e.hidden_states[-2] for e in encoded], dim=-1)
        return self.run(
            hidden_states=batch.noisy,
            encoder_hidden_states=torch.cat([tokens, self.t5(batch.tokens)[0]], dim=1),
            pooled_projections=torch.cat([e.text_embeds for e in encoded], dim=-1),
            timestep=1000 * batch.sigma,
            return_dict=False,
        )[0]

    def pipeline(self, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
        """Put the parts together as they are."""
        return StableDiffusion3Pipeline(
            scheduler=build_scheduler(),
            vae=vae,
            text_encoder=self.clips[0],
            tokenizer=self.tokenizer,
            text_encoder_2=self.clips[1],
            tokenizer_2=self.tokenizer,
            text_encoder_3=self.t5,
            tokenizer_3=self.tokenizer,
            transformer=self.transformer,
        )


#: The denoisers by the name of their pipeline.
DENOISERS: Mapping[str, type[FluxDenoiser | JointDenoiser]] = MappingProxyType(
    {"shapes": FluxDenoiser, "shapes-guided": JointDenoiser}
)
