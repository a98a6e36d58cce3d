"""A generic denoising loop: a pipeline for a denoiser that comes without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from benchmarks.zoo.denoisers import DENOISERS, build, fit
from benchmarks.zoo.draws import Draw

#: Seeds of the second guidance branch, away from those of the first.
_OTHER = 10_000
_GUIDANCE = 1.5


class DenoiserLoop:
    """Denoises with two guidance branches, one call after the other, as many pipelines do.

    Args:
        name: Class of the denoiser, a row of `DENOISERS`.
        scheduler: Flow matching by default.
    """

    def __init__(self, name: str, scheduler: Any = None) -> None:
        self.name = name
        self.scheduler = FlowMatchEulerDiscreteScheduler() if scheduler is None else scheduler
        self._facts = DENOISERS[name]
        setattr(self, self.component, build(name))

    @property
    def component(self) -> str:
        """What a pipeline would call the denoiser."""
        kind = self.name.partition("Model")[0]
        return (
            "unet" if kind.startswith("UNet") else "prior" if kind[:5] == "Prior" else "transformer"
        )

    @torch.no_grad()
    def __call__(
        self,
        *,
        seeds: Sequence[int],
        size: int,
        num_inference_steps: int,
        noise: Sequence[int] | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return the last latents: (rows, ...); noise has seeds of the first ones."""
        facts, model = self._facts, getattr(self, self.component)
        draw = Draw(seeds)
        latents = draw.normal(*facts.shape(size))
        if noise is not None:
            latents = Draw(noise).normal(*facts.shape(size))
        branches = [facts.inputs(draw, size, model)]
        if facts.guided:
            branches.append(facts.inputs(Draw([s + _OTHER for s in seeds]), size, model))
        self.scheduler.set_timesteps(num_inference_steps)
        for step, t in enumerate(self.scheduler.timesteps):
            given = facts.scale * t * torch.ones(len(seeds), *facts.clock(size))
            clock = {facts.timestep: given.long() if facts.integers else given}
            noisy = list(latents) if facts.listed else latents
            out = [
                fit(
                    model(**{facts.latents: noisy}, **clock, **inputs, return_dict=False)[0],
                    latents,
                    tail=facts.tail,
                )
                for inputs in branches
            ]
            guided = out[0] if len(out) == 1 else out[1] + _GUIDANCE * (out[0] - out[1])
            latents = self.scheduler.step(guided, t, latents, return_dict=False)[0]
            if on_step is not None:
                on_step(step)
        return latents
