"""Edit images of a StyleGAN-like generator, and reuse the layers that an edit does not reach.

A walk of edits looks like a diffusers pipeline to everything else: a step is one edit, the blocks
are the layers of the synthesis network, rows are images. So runner, cache and sensitivity analysis
serve it as they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ditcache_rl.bench import Drawn
from ditcache_rl.control import uniform_decision
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo, Tier

_SLOPE = 0.2  # of the leaky ReLU, as in StyleGAN


class ModulatedConv(nn.Module):
    """Convolve with weights that a style scales per input channel, normalised per output channel.

    Scaling what goes in and what comes out is the same as scaling the weights, and lets all rows
    share them.

    Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN, section 2.2.
    """

    def __init__(self, style_size: int, channels: int, out_channels: int, kernel_px: int = 3):
        super().__init__()
        self.affine = nn.Linear(style_size, channels)
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(torch.randn(out_channels, channels, kernel_px, kernel_px))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, hidden_states: Tensor, style: Tensor) -> Tensor:
        """Convolve: (B, C, H, W) with styles (B, D) to (B, out_channels, H, W)."""
        scale: Tensor = self.affine(style)
        energy = scale.square() @ self.weight.square().sum((2, 3)).T
        padding = self.weight.shape[-1] // 2
        found: Tensor = functional.conv2d(
            hidden_states * scale[..., None, None], self.weight, None, 1, padding
        )
        return found * (energy + 1e-8).rsqrt()[..., None, None] + self.bias[:, None, None]


class StyleBlock(nn.Module):
    """Double the size, and convolve twice under one style, with noise that is always the same."""

    def __init__(self, style_size: int, channels: int, out_channels: int, size_px: int):
        super().__init__()
        self.first = ModulatedConv(style_size, channels, out_channels)
        self.second = ModulatedConv(style_size, out_channels, out_channels)
        self.register_buffer("noise", 0.1 * torch.randn(size_px, size_px))

    def forward(self, hidden_states: Tensor, style: Tensor) -> Tensor:
        """Refine: (B, C, H, W) with styles (B, D) to (B, out_channels, 2H, 2W)."""
        larger = functional.interpolate(hidden_states, scale_factor=2.0, mode="nearest")
        hidden = functional.leaky_relu(self.first(larger, style) + self.noise, _SLOPE)
        return functional.leaky_relu(self.second(hidden, style), _SLOPE)


class Synthesis(nn.Module):
    """Draw images from a constant and one style per layer."""

    def __init__(self, style_size: int, channels: Sequence[int]):
        super().__init__()
        self.constant = nn.Parameter(torch.randn(channels[0], 4, 4))
        self.blocks = nn.ModuleList(
            StyleBlock(style_size, before, after, 8 << layer)
            for layer, (before, after) in enumerate(pairwise(channels))
        )
        self.to_rgb = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, styles: Tensor) -> Tensor:
        """Draw: (B, layers, D) to (B, 3, H, W) in [0, 1]."""
        hidden_states = self.constant.expand(len(styles), -1, -1, -1)
        for layer, block in enumerate(self.blocks):
            hidden_states = block(hidden_states, styles[:, layer])
        return torch.sigmoid(self.to_rgb(hidden_states))


class StyleGenerator(nn.Module):
    """A StyleGAN of toy size with random weights: 64 x 64 px by default.

    Args:
        style_size: Entries of latents and styles.
        channels: Of the constant and of every layer; each layer doubles the size, from 4 px on.
        seed: Of the weights.
    """

    def __init__(
        self,
        *,
        style_size: int = 64,
        channels: Sequence[int] = (128, 128, 128, 64, 32),
        seed: int = 0,
    ):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mapping = nn.Sequential(
                *(
                    part
                    for _ in range(4)
                    for part in (nn.Linear(style_size, style_size), nn.LeakyReLU(_SLOPE))
                )
            )
            self.synthesis = Synthesis(style_size, channels)

    @torch.no_grad()
    def styles(self, latents: Tensor) -> Tensor:
        """Map latents to styles, the same for every layer: (B, D) to (B, layers, D)."""
        found: Tensor = self.mapping(
            functional.normalize(latents, dim=-1) * latents.shape[-1] ** 0.5
        )
        return found[:, None].expand(-1, len(self.synthesis.blocks), -1)


class EditClock:
    """Stands for the scheduler of a walk: its timesteps are the numbers of the edits."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.begin(1)

    def begin(self, edits: int) -> None:
        """Start a walk."""
        self.step_index = 0
        self.timesteps = torch.arange(edits)
        self.sigmas = torch.linspace(1, 0, edits + 1)


class LatentWalk:
    """Draw one image per edit and row; `cached`, `attach` and the analysis take it for a pipeline.

    Args:
        synthesis: Takes styles (B, layers, D), and runs a `blocks` list of modules one after the
            other. A block that keeps the shape of its input is cached as a residual, exact up to
            rounding; all others are exact.
    """

    def __init__(self, synthesis: nn.Module) -> None:
        self.synthesis, self.scheduler = synthesis, EditClock()

    @property
    def components(self) -> dict[str, Any]:
        """What it is made of, by name."""
        return {"synthesis": self.synthesis, "scheduler": self.scheduler}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.synthesis.parameters()).device

    @torch.no_grad()
    def __call__(self, styles: Tensor) -> Tensor:
        """Draw: (edits, rows, layers, D) to (edits, rows, 3, H, W) in [0, 1].

        Raises:
            ConfigError: If the styles have another number of dimensions, or there is no edit.
        """
        if styles.ndim != 4 or not len(styles):
            raise ConfigError(
                "expected styles (edits, rows, layers, D) with at least one edit, received shape "
                f"{tuple(styles.shape)}; stack the styles of all edits"
            )
        self.scheduler.begin(len(styles))
        images = []
        for edit in styles:
            images.append(self.synthesis(edit))
            self.scheduler.step_index += 1
        return torch.stack(images)


class StyleReuse:
    """Reuse every layer whose style, and those of all layers before it, did not change.

    Sites must be the layers. It compares the styles on their device, with one host sync per edit.
    """

    probe_blocks = 0

    def reset(self, run: RunInfo) -> None:
        """Start a walk, whose first edit computes all."""
        self._run, self._styles = run, torch.empty(0)

    def decide(self, info: StepInfo) -> Decision:
        """Compare the styles with those of the edit before.

        Raises:
            ConfigError: If sites are not the layers.
        """
        styles, run = info.latents, self._run
        if styles.ndim != 3 or styles.shape[1] != run.sites:
            raise ConfigError(
                "expected one site per layer and styles (rows, layers, D), received sites = "
                f"{run.sites} and shape {tuple(styles.shape)}; give sites=len(synthesis.blocks)"
            )
        before, self._styles = self._styles, styles.clone()
        if before.shape != styles.shape:
            return uniform_decision(run, Mode.COMPUTE)
        same = (before == styles).all(-1).int().cumprod(1).cpu().numpy()  # the host sync
        modes = np.where(same, Mode.REUSE, Mode.COMPUTE).astype(np.int8)
        return Decision(modes, np.full(modes.shape, Tier.DEVICE, dtype=np.int8))


@dataclass(slots=True)
class WalkSampler:
    """What the sensitivity analysis draws: a case is a walk of one row, (edits, layers, D).

    Attributes:
        pipe: The walk.
        steps: Edits of every case.
        sites: Layers.
    """

    pipe: LatentWalk
    steps: int
    sites: int

    def draw(self, cases: Sequence[Tensor]) -> Drawn:
        """Draw all edits of some walks: (len(cases), edits, 3, H, W), on the CPU."""
        started = time.perf_counter()
        images = self.pipe(torch.stack(list(cases), dim=1)).transpose(0, 1).cpu()
        return Drawn(images, None, time.perf_counter() - started)
