"""Whole pipelines with tiny components, at least one per family.

Prompts are given as embeddings, except where the text encoders are CLIP and T5 of the embedded
default: a text encoder runs before the loop and is none of the cache's business. What a pipeline
is called with depends on `Draw`, so that a sample does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from benchmarks.zoo.checks import STEPS
from benchmarks.zoo.denoisers import enliven
from benchmarks.zoo.draws import Draw
from benchmarks.zoo.pipelines import flux, image, unet, video
from benchmarks.zoo.pipelines.row import Pipeline, kl, model
from benchmarks.zoo.rows import Unit

__all__ = ["PIPELINES", "build", "kl", "model", "pipeline_unit"]

PIPELINES: dict[str, Pipeline] = {**flux.ROWS, **image.ROWS, **video.ROWS, **unet.ROWS}


def build(name: str) -> Any:
    """Build a pipeline with random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        components = PIPELINES[name].components()
        for part in components.values():
            if isinstance(part, nn.Module):
                enliven(part)
        pipe = getattr(diffusers, name.split()[0])(**components)
    for setting, value in PIPELINES[name].settings.items():
        setattr(pipe, setting, value)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline_unit(name: str, pipe: Any) -> Unit:
    """Make a unit of a pipeline."""
    facts = PIPELINES[name]

    def draw(seeds: Sequence[int], large: bool, copy: Any = pipe, **more: Any) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given = {
            "num_inference_steps": STEPS,
            "generator": generators if len(seeds) > 1 else generators[0],
            "output_type": facts.output,
            "return_dict": False,
            **facts.call(Draw(seeds), facts.sides[large]),
            **more,
        }
        # Rows are not independent where a pipeline encodes its image with the noise of the first
        # row, or with that of nobody's generator: here it is encoded without any.
        mode = mock.patch.object(DiagonalGaussianDistribution, "sample", _mode)
        with torch.random.fork_rng(devices=[]), mode, facts.around():
            torch.manual_seed(0)
            return _as_tensor(copy(**given)[0])

    return Unit(pipe, draw, facts.rows)


def _mode(encoded: DiagonalGaussianDistribution, generator: Any = None) -> Tensor:
    found: Tensor = encoded.mode()
    return found


def _as_tensor(drawn: Any) -> Tensor:
    """Make one tensor of whatever a pipeline returns."""
    if isinstance(drawn, list | tuple):
        return torch.stack([_as_tensor(item) for item in drawn])
    return torch.as_tensor(np.asarray(drawn)) if not isinstance(drawn, Tensor) else drawn
