"""The caches of diffusers, in its own words."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from diffusers import CacheMixin
from diffusers.hooks import MagCacheConfig

from benchmarks.peers.contender import Setup
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.runner import denoiser_of


def hook(config: str, **fixed: Any) -> Callable[[Setup, Any], dict[str, Any]]:
    """Enable one of diffusers' caches; the knob gives the fields that are not fixed."""

    def make(setup: Setup, value: Any) -> dict[str, Any]:
        given = {
            name: entry(setup, value) if callable(entry) else entry for name, entry in fixed.items()
        }
        settings = getattr(importlib.import_module("diffusers.hooks"), config)(**given)

        @contextmanager
        def applied(pipe: Any) -> Iterator[None]:
            with _cacheable(denoiser_of(pipe)) as denoiser:
                denoiser.enable_cache(settings)
                try:
                    yield
                finally:
                    denoiser.disable_cache()

        return {"applied": applied}

    return make


@contextmanager
def _cacheable(denoiser: Any) -> Iterator[Any]:
    """Give a denoiser diffusers' `CacheMixin` if its class lacks it, as Stable Diffusion 3's does.

    Its pipeline names no cache context then: every call of the denoiser gets the same one.
    """
    plain = type(denoiser)
    if issubclass(plain, CacheMixin):
        yield denoiser
        return

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.cache_context("call"):
            return plain.__call__(self, *args, **kwargs)

    denoiser.__class__ = type(plain.__name__, (plain, CacheMixin), {"__call__": call})
    try:
        yield denoiser
    finally:
        denoiser.__class__ = plain


def swept(setup: Setup, value: Any) -> Any:
    """Give a field the value of the knob."""
    return value


def timestep(setup: Setup, value: Any) -> Callable[[], Any]:
    """Tell where the loop is, as the scheduler notes it: not every pipeline does."""
    scheduler = setup.pipe.scheduler
    return lambda: scheduler.timesteps[scheduler.step_index or 0]


def distilled(setup: Setup, value: Any) -> bool:
    """Tell FasterCache whether a batch holds no second half without the prompt."""
    return not getattr(setup.pipe, "do_classifier_free_guidance", False)


def mag_ratios(setup: Setup, value: Any) -> torch.Tensor:
    """Calibrate MagCache on one image, whose ratios it prints."""
    config = MagCacheConfig(calibrate=True, num_inference_steps=setup.steps)
    printed = io.StringIO()
    with _cacheable(denoiser_of(setup.pipe)) as denoiser:
        denoiser.enable_cache(config)
        try:
            with redirect_stdout(printed):
                setup.calibrate()
        finally:
            denoiser.disable_cache()
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("[1.0")]
    if not lines:
        raise ConfigError("expected MagCache to print its ratios, received none")
    return torch.tensor(json.loads(lines[0]))


def sea_cache(setup: Setup, value: str, **more: Any) -> dict[str, Any]:
    """Enable SeaCache, and tell it what only two pipelines of diffusers tell: step and latents.

    The knob is "threshold, most steps in a row that reuse"; more are other settings of its own.
    """
    from diffusers.hooks import SeaCacheConfig

    def latents(module: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
        return [_as_video(row) for row in kwargs.get("hidden_states", args[0] if args else ())]

    threshold, most = value.split(", ")
    settings = SeaCacheConfig(
        threshold=float(threshold),
        max_consecutive_cached=int(most),
        raw_vision_callback=latents,
        **more,
    )

    @contextmanager
    def applied(pipe: Any) -> Iterator[None]:
        with _cacheable(denoiser_of(pipe)) as denoiser:
            plain = denoiser.cache_context

            def cache_context(name: str) -> Any:
                scheduler = pipe.scheduler
                step = scheduler.step_index or 0
                return plain(
                    name,
                    step_index=step,
                    sigma=float(scheduler.sigmas[step]),
                    num_inference_steps=len(scheduler.timesteps),
                )

            denoiser.enable_cache(settings)
            denoiser.cache_context = cache_context
            try:
                yield
            finally:
                del denoiser.cache_context
                denoiser.disable_cache()

    return {"applied": applied}


def _as_video(row: torch.Tensor) -> torch.Tensor:
    """Lay the latents of a sample out as (channels, frames, height, width)."""
    if row.ndim > 2:
        return row if row.ndim == 4 else row[:, None]
    side = round(row.shape[0] ** 0.5)
    # FLUX packs squares of 2 x 2 into the channels of a token.
    squares = row.reshape(side, side, -1, 2, 2).permute(2, 0, 3, 1, 4)
    return squares.reshape(-1, 1, 2 * side, 2 * side)
