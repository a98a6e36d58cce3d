"""The smallest sensible configuration of every denoiser class, and what it is called with.

A row of a table is one class. Sizes are sides of the latent; what depends on rows is drawn by
`Draw`, so that a sample does not depend on its batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.denoisers import (
    audio,
    flux,
    image_cross,
    image_double,
    image_single,
    unet,
    video_cross,
    video_joint,
    video_wan,
)
from benchmarks.zoo.denoisers.row import TEXT, WIDTH, Specimen

__all__ = ["DENOISERS", "TEXT", "WIDTH", "Specimen", "build", "enliven", "fit"]

DENOISERS: dict[str, Specimen] = {
    **flux.ROWS,
    **image_double.ROWS,
    **image_single.ROWS,
    **image_cross.ROWS,
    **video_joint.ROWS,
    **video_cross.ROWS,
    **video_wan.ROWS,
    **audio.ROWS,
    **unet.ROWS,
}


def build(name: str) -> nn.Module:
    """Build a model with random weights, the same every time."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model: nn.Module = getattr(diffusers, name.split()[0])(**DENOISERS[name].config)
        enliven(model)
    return model


def enliven(model: nn.Module) -> None:
    """Give weights to what starts at zero: it would switch blocks off, and hide every fault."""
    for parameter in model.eval().parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def fit(prediction: Any, latents: Tensor, *, tail: bool) -> Tensor:
    """Bring a prediction to the shape of the latents: spare channels are cut, missing ones zero."""
    if isinstance(prediction, list):
        prediction = torch.stack(prediction)
    if prediction.shape == latents.shape:
        whole: Tensor = prediction
        return whole
    if tail:
        return torch.as_tensor(prediction)[:, -latents.shape[1] :]
    flat = prediction.reshape(len(latents), -1)[:, : latents[0].numel()]
    missing = latents[0].numel() - flat.shape[1]
    return nn.functional.pad(flat, (0, missing)).reshape(latents.shape)
