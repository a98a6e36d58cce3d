"""A small network that doubles the grid of an estimate of the clean latents, above bilinear."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ditcache_rl.errors import ArtifactError
from ditcache_rl.files import parse_tensors, read_bytes

#: Channels between the convolutions, and how many of these follow the first: 0.1 million weights
#: for latents of 4 channels, far below a percent of the arithmetic of the smallest denoiser.
_WIDTH, _DEPTH = 64, 3
_FACTOR = 2
#: Latents have 4 to 128 channels; half a megabyte of weights is what 16 of them take.
_MOST_CHANNELS, _MOST_BYTES = 512, 1 << 24


def bilinear(coarse: Tensor) -> Tensor:
    """Double the sides of (B, C, h, w)."""
    return F.interpolate(coarse, scale_factor=_FACTOR, mode="bilinear", align_corners=False)


class Upscaler(nn.Module):
    """Bilinear, plus what a few convolutions on the coarse grid add; untrained it adds nothing.

    Args:
        channels: Of the latents.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Conv2d(channels + 1, _WIDTH, 3, padding=1, padding_mode="replicate")
        self.middle = nn.ModuleList(
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, padding_mode="replicate") for _ in range(_DEPTH)
        )
        self.last = nn.Conv2d(_WIDTH, channels * _FACTOR**2, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, coarse: Tensor, sigma: Tensor) -> Tensor:
        """Double the sides.

        Args:
            coarse: (B, C, h, w) estimate of the clean latents.
            sigma: (B, 1, 1, 1) noise level at which it was made.
        """
        hidden = self.first(torch.cat([coarse, sigma.expand_as(coarse[:, :1])], dim=1))
        for layer in self.middle:
            hidden = hidden + layer(F.gelu(hidden))
        added: Tensor = F.pixel_shuffle(self.last(F.gelu(hidden)), _FACTOR)
        return bilinear(coarse) + added


def save_upscaler(net: Upscaler, file: Path, *, metadata: dict[str, str]) -> None:
    """Write the weights in half precision.

    Args:
        net: Trained.
        file: A safetensors file.
        metadata: What it was trained on, and how well it does.
    """
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, file, metadata)


def load_upscaler(file: str | Path) -> Upscaler:
    """Read the weights.

    Raises:
        ArtifactError: If the file is not there, or does not hold such a network.
    """
    try:
        tensors = parse_tensors(read_bytes(Path(file), _MOST_BYTES), str(file))
        channels = tensors["first.weight"].shape[1] - 1
        if not 1 <= channels <= _MOST_CHANNELS or any(t.isnan().any() for t in tensors.values()):
            raise ValueError(f"{channels} channels, or weights that are nan")
        net = Upscaler(channels)
        net.load_state_dict(tensors)
    except (ArtifactError, KeyError, IndexError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{file}: expected the weights of an upscaler, as ditcache_rl.extras."
            f"train_upscaler writes them, received {str(error).splitlines()[0]}"
        ) from error
    return net.requires_grad_(False)
