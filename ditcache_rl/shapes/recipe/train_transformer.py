"""Train the denoiser and the text encoders of an embedded pipeline, and write the whole pipeline.

    python -m ditcache_rl.shapes.recipe.train_transformer shapes
    python -m ditcache_rl.shapes.recipe.train_transformer shapes-guided

Needs an autoencoder. A tenth of all captions is held out (`scenes.is_held_out`). Captions are
dropped at times, so that true classifier-free guidance works; an embedded guidance scale is drawn
at random and means nothing to the model.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ditcache_rl.files import replacing
from ditcache_rl.shapes.recipe.card import write_card
from ditcache_rl.shapes.recipe.denoisers import DENOISERS, Batch, Denoiser
from ditcache_rl.shapes.recipe.scenes import caption, is_held_out, render, sample_attributes
from ditcache_rl.shapes.recipe.training import Recipe, autocast, default_device, fit

_CAPTION_DROPOUT = 0.1
_PIECE = 512  # scenes in a file: some ten seconds of a core
#: Embedded guidance scales seen in training; the pipeline's default of 3.5 lies within.
_GUIDANCE_RANGE = (1.0, 5.0)


class Data(NamedTuple):
    """Encoded scenes."""

    latents: Tensor
    """(N, 4, 16, 16) float16, normalised."""
    tokens: Tensor
    """(N, caption length) int64."""


def main(arguments: list[str] | None = None) -> None:
    """Train, and save the pipeline under OUT/pipeline."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("pipeline", choices=DENOISERS, help="which one")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of checkpoints and result; runs/PIPELINE"
    )
    parser.add_argument(
        "--autoencoder", type=Path, metavar="FOLDER", help="what encodes the scenes; OUT/vae"
    )
    parser.add_argument("--steps", type=int, default=4600, help="optimizer steps")
    parser.add_argument("--scenes", type=int, default=32_768, help="size of the training set")
    parser.add_argument("--batch", type=int, default=64, help="scenes per step")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights, scenes and noise")
    parser.add_argument("--compile", action="store_true", help="compile the transformer first")
    options = parser.parse_args(arguments)

    out = options.out or Path("runs") / options.pipeline

    torch.manual_seed(options.seed)
    device = default_device()
    vae = AutoencoderKL.from_pretrained(options.autoencoder or out / "vae")
    model = DENOISERS[options.pipeline]()
    data = encode(vae, model, options.scenes, options.seed, out / "scenes")
    model = model.to(device)
    if options.compile:
        model.run = torch.compile(model.transformer.forward)

    # The fused attention kernel of the CPU is slow backwards at 76 tokens (a quarter of the step).
    with sdpa_kernel(SDPBackend.MATH):
        report = fit(
            model,
            _denoising_loss(model, data, options.batch, device),
            Recipe(steps=options.steps, learning_rate=1.5e-3),
            out / "denoise",
            seed=options.seed,
            images=lambda: _samples(model, vae),
        )
    assemble(model.cpu(), vae).save_pretrained(out / "pipeline")
    (out / "report.json").write_text(json.dumps(vars(options) | report, default=str, indent=2))
    (out / "pipeline" / "README.md").write_text(write_card(options.pipeline, out))


def encode(vae: AutoencoderKL, model: Denoiser, count: int, seed: int, folder: Path) -> Data:
    """Render and encode the training set, in files of which those that are there are read.

    An interrupted run goes on after the last one, and more scenes begin with the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = []
    for index in track(range(math.ceil(count / _PIECE)), "scenes"):
        file = folder / f"{index:04}.safetensors"
        if not file.exists():
            # No other seed has a piece of this number below 10 000 pieces, five million scenes.
            generator = torch.Generator().manual_seed(seed * 10_000 + index)
            with replacing(file) as partial:
                save_file(_encode_piece(vae, model, generator)._asdict(), partial)
        pieces.append(Data(**load_file(file)))
    return Data(*(torch.cat(parts)[:count] for parts in zip(*pieces, strict=True)))


@torch.inference_mode()
def _encode_piece(vae: AutoencoderKL, model: Denoiser, generator: torch.Generator) -> Data:
    drawn = sample_attributes(_PIECE * 3 // 2, generator, behind=model.behind)
    kept = drawn[~is_held_out(drawn)][:_PIECE]
    latents = []
    for attributes in torch.split(kept, 64):
        images = render(attributes, generator) * 2 - 1
        with autocast(torch.device("cpu")):
            mode = vae.encode(images).latent_dist.mode().float()
        latents.append(((mode - vae.config.shift_factor) * vae.config.scaling_factor).half())
    return Data(torch.cat(latents), model.tokens_of([caption(row) for row in kept.tolist()]))


def assemble(model: Denoiser, vae: AutoencoderKL) -> DiffusionPipeline:
    """Put the parts together; the large ones in half precision, the text encoders as trained."""
    # transformers opens half-precision weights as such, and pipelines take their dtype from them.
    pipe = model.pipeline(vae)
    pipe.vae.half()
    pipe.transformer.half()
    return pipe


def _draw(data: Data, empty: Tensor, count: int, generator: torch.Generator) -> Batch:
    rows = torch.randint(len(data.latents), (count,), generator=generator)
    clean = data.latents[rows].float()
    noise = torch.randn(clean.shape, generator=generator)
    # Logit-normal levels (Esser et al., arXiv 2403.03206), leaning to high noise where shapes form.
    sigma = torch.sigmoid(0.3 + 1.1 * torch.randn(count, generator=generator))
    low, high = _GUIDANCE_RANGE
    guidance = low + (high - low) * torch.rand(count, generator=generator)
    dropped = torch.rand(count, 1, generator=generator) < _CAPTION_DROPOUT
    tokens = torch.where(dropped, empty, data.tokens[rows])
    return Batch(clean, noise, sigma, guidance, tokens)


def _denoising_loss(
    model: Denoiser, data: Data, count: int, device: torch.device
) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    empty = model.tokens_of([""])

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = Batch(*(part.to(device) for part in _draw(data, empty, count, generator)))
        with autocast(device):
            velocity = model(batch)
        return {"loss": F.mse_loss(velocity.float(), batch.noise - batch.clean)}

    return loss


@torch.inference_mode()
def _samples(model: Denoiser, vae: AutoencoderKL) -> Tensor:
    """Sample ten held-out captions and put the images in a row: (3, 64, 640)."""
    attributes = sample_attributes(400, torch.Generator().manual_seed(0), behind=model.behind)
    attributes = attributes[is_held_out(attributes)][:10]
    pipe = model.pipeline(vae.to(model.transformer.device))
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        [caption(row) for row in attributes.tolist()],
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **model.call,
    ).images
    return torch.cat(list(images), dim=2)


if __name__ == "__main__":
    main()
