"""Compute early steps on a grid of half the size: progressive sampling, seen from the denoiser.

The first steps decide where things are, which a quarter of the tokens can tell. Latents x = (1 - s)
clean + s noise are averaged over 2 x 2; noise averages to half its strength, so the mean, divided
by 1 - s / 2, is again such a mixture, at noise level (s / 2) / (1 - s / 2). The denoiser computes
it, what it takes for the clean latents is brought to the full grid, and from this and the full
latents follows the velocity that the sampler asked for. Noise itself has no coarse version, so a
velocity brought to a larger grid would lose it.

What a denoiser returns is on the full grid, so everything else sees whole calls. Latents whose grid
is not known are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ditcache_rl.config import check_within
from ditcache_rl.errors import ConfigError, UnsupportedModelError, closest
from ditcache_rl.extras.upscaler import Upscaler, bilinear
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.branches import CallReader
from ditcache_rl.instrument.clock import Clock
from ditcache_rl.instrument.signatures import parameters_of
from ditcache_rl.instrument.taps import Tap, install, release


class Form(NamedTuple):
    """How a class of denoisers that predict noise - clean is given latents and noise level."""

    packed: bool
    """Tokens of 2 x 2 latents whose places are in `img_ids`; else (B, C, H, W)."""
    timestep_scale: float
    """What it takes for the timestep, over sigma."""


_FORMS = {
    "FluxTransformer2DModel": Form(packed=True, timestep_scale=1.0),
    "SD3Transformer2DModel": Form(packed=False, timestep_scale=1000.0),
}
#: Arguments that hold something per token or per block, made for the full grid.
_FULL_GRID = (
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "block_controlnet_hidden_states",
)
#: Latents per token and side, in all forms.
_PATCH = 2
#: Whose blocks this thread or task is in.
_ENTERED: ContextVar[tuple[Tap, ...]] = ContextVar("ditcache_rl_coarse", default=())


class Estimate(NamedTuple):
    """What a call on a coarse grid came to."""

    grid: tuple[int, int]
    """Sides of the full token grid."""
    latents: Tensor
    """(B, C, H, W) on the full grid, noisy."""
    sigma: Tensor
    """(B, 1, 1, 1) their noise level."""
    coarse: Tensor
    """(B, C, H / 2, W / 2) what the denoiser takes for clean."""
    coarse_sigma: Tensor
    """(B, 1, 1, 1) noise level at which it does."""
    output: Any
    """Of the call, on the coarse grid."""


@contextmanager
def coarse_steps(pipe: Any, steps: int, *, upscaler: Upscaler | None = None) -> Iterator[None]:
    """Compute the first steps of a pipeline's calls at half the resolution: faster, and worse.

    It stands alone or beside `cached`, in either order. Calls of other threads and tasks are left
    alone. A speed-up that is asked for does not count coarse steps, and a reference that is drawn
    inside is coarse too.

    Args:
        pipe: A diffusers pipeline whose denoisers are FLUX's or SD3's.
        steps: So many steps of each call.
        upscaler: Brings estimates to the full grid; bilinear without one.

    Raises:
        ConfigError: If the number is none or negative, or the upscaler is for other latents.
        UnsupportedModelError: If the grid of a denoiser's latents is not known.
    """
    check_within("coarse_steps", steps, 0, whole=True)
    kinds = {
        denoiser: partial(_CoarseTap, CoarseDenoiser(denoiser, upscaler=upscaler), steps, pipe)
        for denoiser in denoisers_of(pipe).values()
    }
    taps = [install(denoiser, kind) for denoiser, kind in kinds.items()]
    token = _ENTERED.set((*_ENTERED.get(), *taps))
    try:
        yield
    finally:
        for tap in taps:
            release(tap)
        _ENTERED.reset(token)


class _CoarseTap(Tap):
    """Runs the first steps of a denoiser at half the resolution."""

    depth = 2  # behind all that caches: entries are on the full grid where they can be

    def __init__(self, coarse: CoarseDenoiser, steps: int, pipe: Any, module: nn.Module) -> None:
        super().__init__(module)
        self._coarse, self._steps = coarse, steps
        self._clock, self._reader = Clock(pipe.scheduler), CallReader(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute, coarsely if it is time for it."""
        if self not in _ENTERED.get():
            return self.plain(*args, **kwargs)
        timestep = self._reader.read(args, kwargs).timestep
        if 0 <= self._clock.read(timestep).step < self._steps:
            return self._coarse.run(self.plain, args, kwargs)
        return self.plain(*args, **kwargs)


class CoarseDenoiser:
    """Runs a denoiser at half the resolution.

    Args:
        denoiser: The model.
        upscaler: Brings estimates to the full grid; bilinear without one.

    Raises:
        ConfigError: If the upscaler is for other latents.
        UnsupportedModelError: If the grid of the denoiser's latents is not known.
    """

    def __init__(self, denoiser: Any, *, upscaler: Upscaler | None = None) -> None:
        name = type(denoiser).__name__
        if name not in _FORMS:
            raise UnsupportedModelError(
                f"coarse_steps needs a denoiser whose grid is known, one of {', '.join(_FORMS)}, "
                f"received {name}.{closest(name, _FORMS)} Leave coarse_steps out"
            )
        self._form = _FORMS[name]
        self._parameters = parameters_of(denoiser)
        channels = int(denoiser.config.in_channels)
        if channels != denoiser.out_channels:
            raise UnsupportedModelError(
                f"coarse_steps needs a denoiser that takes nothing but latents, received one that "
                f"takes {channels} channels and returns {denoiser.out_channels}"
            )
        channels //= _PATCH**2 if self._form.packed else 1
        if upscaler is not None and upscaler.channels != channels:
            raise ConfigError(
                f"expected an upscaler for latents of {channels} channels, as this denoiser has, "
                f"received one for {upscaler.channels}"
            )
        self._upscaler = (
            None if upscaler is None else upscaler.to(next(denoiser.parameters()).device)
        )

    def run(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Compute a call at half the resolution, or as it is where its grid is not known."""
        found = self.estimate(plain, args, kwargs)
        if found is None:
            return plain(*args, **kwargs)
        upscaler = self._upscaler
        coarse, sigma = found.coarse, found.coarse_sigma
        fine = bilinear(coarse) if upscaler is None else upscaler(coarse, sigma)
        velocity = (found.latents - fine) / found.sigma
        result = (pack(velocity) if self._form.packed else velocity).to(found.output[0].dtype)
        if isinstance(found.output, tuple):
            return (result,)
        return type(found.output)(sample=result)

    def estimate(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Estimate | None:
        """Estimate the clean latents of a call at half the resolution.

        Args:
            plain: Runs the denoiser.
            args: Of the call on the full grid.
            kwargs: Likewise.

        Returns:
            None where the grid is not known, or can't be halved.
        """
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        grid = self._grid(given)
        if grid is None:
            return None
        tokens, timestep, scale = (
            given["hidden_states"],
            given["timestep"],
            self._form.timestep_scale,
        )
        latents = self.lay_out(tokens, grid)
        sigma = timestep.float().view(-1, 1, 1, 1) / scale
        coarse, coarse_sigma = coarsen(latents, sigma)
        small = pack(coarse) if self._form.packed else coarse
        given["hidden_states"] = small.to(tokens.dtype)
        given["timestep"] = (coarse_sigma.view(-1) * scale).to(timestep.dtype)
        if self._form.packed:
            given["img_ids"] = mean_places(given["img_ids"], grid)
        output = plain(**given)
        velocity = self.lay_out(output[0], (grid[0] // 2, grid[1] // 2))
        return Estimate(
            grid, latents, sigma, coarse - coarse_sigma * velocity, coarse_sigma, output
        )

    def lay_out(self, streams: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return latents or a velocity as (B, C, H, W) in float32."""
        return (unpack(streams, grid) if self._form.packed else streams).float()

    def _grid(self, given: dict[str, Any]) -> tuple[int, int] | None:
        """Return the sides of the token grid if they are known and even.

        Packed latents tell them by their places alone, which costs a host sync per coarse step.
        """
        if any(given.get(name) is not None for name in _FULL_GRID):
            return None
        latents = given["hidden_states"]
        if not self._form.packed:
            height, width = (side // _PATCH for side in latents.shape[2:])
            even = not any(side % (2 * _PATCH) for side in latents.shape[2:])
            return (height, width) if even else None
        places = given["img_ids"]
        height, width = (int(side) + 1 for side in places[-1, 1:].tolist())
        if height * width != latents.shape[1] or height % 2 or width % 2:
            return None
        return (height, width) if torch.equal(places, raster(height, width).to(places)) else None


def coarsen(latents: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Halve the sides of noisy latents: (B, C, H, W) and their noise level, (B, 1, 1, 1)."""
    kept = 1 - sigma / 2
    return F.avg_pool2d(latents, 2) / kept, sigma / 2 / kept


def unpack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay tokens of 2 x 2 latents out: (B, h w, 4 C) to (B, C, 2 h, 2 w)."""
    batch, channels = len(tokens), tokens.shape[2] // _PATCH**2
    parts = tokens.view(batch, *grid, channels, _PATCH, _PATCH).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(batch, channels, grid[0] * _PATCH, grid[1] * _PATCH)


def pack(latents: Tensor) -> Tensor:
    """Invert `unpack`."""
    batch, channels, height, width = latents.shape
    parts = latents.view(batch, channels, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * _PATCH**2)


def raster(height: int, width: int) -> Tensor:
    """Number the places of a grid as FLUX does: (height width, 3)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3)


def mean_places(places: Tensor, grid: tuple[int, int]) -> Tensor:
    """Give a coarse token the middle of the four that it stands for: (h w / 4, 3)."""
    return (
        places.reshape(grid[0] // 2, 2, grid[1] // 2, 2, -1).float().mean(dim=(1, 3)).flatten(0, 1)
    )
