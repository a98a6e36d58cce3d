"""Train the denoiser and both text encoders of the embedded pipeline, and write the whole pipeline.

    python -m ditcache_rl.shapes.recipe.train_transformer --out runs/shapes

Needs the autoencoder under OUT/vae. A tenth of all captions is held out (`scenes.is_held_out`).
Captions are dropped at times, so that true classifier-free guidance works; the embedded guidance
scale is drawn at random and means nothing to the model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, FluxPipeline
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ditcache_rl.shapes import CALL, MAX_SEQUENCE_LENGTH
from ditcache_rl.shapes.recipe.card import write_card
from ditcache_rl.shapes.recipe.components import (
    build_clip,
    build_scheduler,
    build_t5,
    build_tokenizer,
    build_transformer,
)
from ditcache_rl.shapes.recipe.scenes import caption, is_held_out, render, sample_attributes
from ditcache_rl.shapes.recipe.training import Recipe, default_device, fit

_CAPTION_DROPOUT = 0.1
#: Embedded guidance scales seen in training; the pipeline's default of 3.5 lies within.
_GUIDANCE_RANGE = (1.0, 5.0)


class Data(NamedTuple):
    """Encoded scenes."""

    latents: Tensor
    """(N, 64, 16) float16, normalised and packed as the transformer takes them."""
    tokens: Tensor
    """(N, 12) int64."""


class Denoiser(nn.Module):
    """The transformer with both text encoders: noisy tokens and caption in, velocity out."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer, self.clip, self.t5 = build_transformer(), build_clip(), build_t5()
        for block in (
            *self.transformer.transformer_blocks,
            *self.transformer.single_transformer_blocks,
        ):
            for name, layer in block.named_modules():
                if name.startswith("norm") and name.endswith("linear"):
                    nn.init.zeros_(layer.weight)
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)
        self.run: Callable[..., tuple[Tensor]] = self.transformer.forward

    def forward(self, noisy: Tensor, sigma: Tensor, guidance: Tensor, tokens: Tensor) -> Tensor:
        """Predict noise - data.

        Args:
            noisy: (B, 64, 16).
            sigma: (B,) noise level in [0, 1].
            guidance: (B,) embedded guidance scale.
            tokens: (B, 12) caption.
        """
        side = int(noisy.shape[1] ** 0.5)
        image_ids = FluxPipeline._prepare_latent_image_ids(1, side, side, noisy.device, noisy.dtype)
        return self.run(
            hidden_states=noisy,
            encoder_hidden_states=self.t5(tokens)[0],
            pooled_projections=self.clip(tokens).pooler_output,
            timestep=sigma,
            img_ids=image_ids,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=noisy.device),
            guidance=guidance,
            return_dict=False,
        )[0]


def main(arguments: list[str] | None = None) -> None:
    """Train, and save the pipeline under OUT/pipeline."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/shapes"), help="folder of checkpoints and result"
    )
    parser.add_argument("--steps", type=int, default=4600, help="optimizer steps")
    parser.add_argument("--scenes", type=int, default=32_768, help="size of the training set")
    parser.add_argument("--batch", type=int, default=64, help="scenes per step")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights, scenes and noise")
    parser.add_argument("--compile", action="store_true", help="compile the transformer first")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    device = default_device()
    vae = AutoencoderKL.from_pretrained(options.out / "vae")
    data = encode(vae, options.scenes, options.seed, options.out / "scenes.safetensors")
    model = Denoiser().to(device)
    if options.compile:
        model.run = torch.compile(model.transformer.forward)

    # The fused attention kernel of the CPU is slow backwards at 76 tokens (a quarter of the step).
    with sdpa_kernel(SDPBackend.MATH):
        report = fit(
            model,
            _denoising_loss(model, data, options.batch, device),
            Recipe(steps=options.steps, learning_rate=1.5e-3),
            options.out / "denoise",
            seed=options.seed,
            images=lambda: _samples(model, vae),
        )
    assemble(model.cpu(), vae).save_pretrained(options.out / "pipeline")
    (options.out / "report.json").write_text(
        json.dumps(vars(options) | report, default=str, indent=2)
    )
    (options.out / "pipeline" / "README.md").write_text(write_card(options.out))


@torch.inference_mode()
def encode(vae: AutoencoderKL, count: int, seed: int, file: Path) -> Data:
    """Render and encode the training set once; later calls read the file."""
    if file.exists():
        return Data(**load_file(file))
    tokenizer = build_tokenizer()
    generator = torch.Generator().manual_seed(seed)
    latents, tokens = [], []
    for _ in track(range(count // 64), "scenes"):
        attributes = sample_attributes(96, generator)
        attributes = attributes[~is_held_out(attributes)][:64]
        images = render(attributes, generator) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            mode = vae.encode(images).latent_dist.mode().float()
        mode = (mode - vae.config.shift_factor) * vae.config.scaling_factor
        latents.append(FluxPipeline._pack_latents(mode, *mode.shape).half())
        tokens.append(_tokenize(tokenizer, [caption(row) for row in attributes.tolist()]))
    data = Data(torch.cat(latents), torch.cat(tokens))
    save_file(data._asdict(), file)
    return data


def assemble(model: Denoiser, vae: AutoencoderKL) -> FluxPipeline:
    """Put the parts together; the large ones in half precision, the text encoders as trained."""
    # transformers opens half-precision weights as such, and FluxPipeline takes its dtype from them.
    return FluxPipeline(
        scheduler=build_scheduler(),
        vae=vae.half(),
        text_encoder=model.clip,
        tokenizer=build_tokenizer(),
        text_encoder_2=model.t5,
        tokenizer_2=build_tokenizer(),
        transformer=model.transformer.half(),
    )


def _tokenize(tokenizer: Callable[..., dict[str, Tensor]], captions: list[str]) -> Tensor:
    padded = tokenizer(
        captions, padding="max_length", max_length=MAX_SEQUENCE_LENGTH, return_tensors="pt"
    )
    return padded["input_ids"]


class _Batch(NamedTuple):
    clean: Tensor
    noise: Tensor
    sigma: Tensor
    guidance: Tensor
    tokens: Tensor
    noisy: Tensor


def _draw(data: Data, count: int, generator: torch.Generator, device: torch.device) -> _Batch:
    rows = torch.randint(len(data.latents), (count,), generator=generator)
    clean = data.latents[rows].float()
    noise = torch.randn(clean.shape, generator=generator)
    # Logit-normal levels (Esser et al., arXiv 2403.03206), leaning to high noise where shapes form.
    sigma = torch.sigmoid(0.3 + 1.1 * torch.randn(count, generator=generator))
    low, high = _GUIDANCE_RANGE
    guidance = low + (high - low) * torch.rand(count, generator=generator)
    level = sigma[:, None, None]
    parts = (clean, noise, sigma, guidance, data.tokens[rows], (1 - level) * clean + level * noise)
    return _Batch(*(part.to(device) for part in parts))


def _denoising_loss(
    model: Denoiser, data: Data, count: int, device: torch.device
) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    empty = _tokenize(build_tokenizer(), [""])

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = _draw(data, count, generator, device)
        dropped = torch.rand(count, 1, generator=generator) < _CAPTION_DROPOUT
        tokens = torch.where(dropped.to(device), empty.to(device), batch.tokens)
        with torch.autocast(device.type, torch.bfloat16):
            velocity = model(batch.noisy, batch.sigma, batch.guidance, tokens)
        return {"loss": F.mse_loss(velocity.float(), batch.noise - batch.clean)}

    return loss


@torch.inference_mode()
def _samples(model: Denoiser, vae: AutoencoderKL) -> Tensor:
    """Sample ten held-out captions and put the images in a row: (3, 64, 640)."""
    attributes = sample_attributes(400, torch.Generator().manual_seed(0))
    attributes = attributes[is_held_out(attributes)][:10]
    parts = {
        "text_encoder": model.clip,
        "text_encoder_2": model.t5,
        "transformer": model.transformer,
    }
    tokenizer = build_tokenizer()
    pipe = FluxPipeline(
        scheduler=build_scheduler(),
        vae=vae.to(model.transformer.device),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        **parts,
    )
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        [caption(row) for row in attributes.tolist()],
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **CALL,
    ).images
    return torch.cat(list(images), dim=2)


if __name__ == "__main__":
    main()
