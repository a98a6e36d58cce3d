"""A StyleGAN of toy size with random weights, whose synthesis a walk of edits draws with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

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
