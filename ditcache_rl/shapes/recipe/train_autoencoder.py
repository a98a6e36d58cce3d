"""Train the autoencoder of the embedded pipeline on rendered scenes.

python -m ditcache_rl.shapes.recipe.train_autoencoder --out runs/shapes
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from ditcache_rl.shapes.recipe.components import build_autoencoder
from ditcache_rl.shapes.recipe.scenes import sample_scenes
from ditcache_rl.shapes.recipe.training import Recipe, autocast, default_device, fit

_KL_WEIGHT = 5e-5  # per latent number; larger makes latents easier to model and blurs the picture
_SCENES_FOR_STATISTICS = 512


def main(arguments: list[str] | None = None) -> None:
    """Train, measure the latents' scale, and save the autoencoder under OUT/vae."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/shapes"), help="folder of checkpoints and result"
    )
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=32, help="scenes per step")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and scenes")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    device = default_device()
    vae = build_autoencoder().to(device)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = sample_scenes(options.batch, generator).images.to(device) * 2 - 1
        with autocast(device):
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        error = decoded.float() - images
        squared, absolute = error.square().mean(), error.abs().mean()
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        psnr = 10 * torch.log10(4 / squared.detach())
        return {
            "loss": squared + 0.1 * absolute + _KL_WEIGHT * kl,
            "psnr_db": psnr,
            "kl": kl.detach(),
        }

    recipe = Recipe(steps=options.steps, learning_rate=2e-3, ema_decay=0.99)
    report = fit(vae, loss, recipe, options.out / "autoencoder", seed=options.seed)

    report |= _normalise(vae.cpu(), options.seed)
    vae.save_pretrained(options.out / "vae")
    (options.out / "autoencoder" / "report.json").write_text(
        json.dumps(vars(options) | report, default=str, indent=2)
    )


@torch.inference_mode()
def _normalise(vae: AutoencoderKL, seed: int) -> dict[str, float]:
    """Set shift and scale to latents of mean 0 and deviation 1; report held-out PSNR."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    images = sample_scenes(_SCENES_FOR_STATISTICS, generator).images * 2 - 1
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(images, 64)])
    decoded = torch.cat([vae.decode(part).sample for part in torch.split(latents, 64)])
    vae.register_to_config(
        shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item()
    )
    return {
        "held_out_psnr_db": (10 * torch.log10(4 / F.mse_loss(decoded.clamp(-1, 1), images))).item()
    }


if __name__ == "__main__":
    main()
