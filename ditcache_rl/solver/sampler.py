"""A collapsed schedule as a sampler of k-diffusion, which is what ComfyUI takes as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from torch import Tensor

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules.table import is_at
from ditcache_rl.solver.saved import CollapsedFlowMatchScheduler
from ditcache_rl.types import HISTORY


def k_diffusion_sampler(scheduler: CollapsedFlowMatchScheduler) -> Callable[..., Tensor]:
    """Return `sample(model, x, sigmas, extra_args, callback, disable)` for flow-matching models.

    The model is called as `model(x, sigma, **extra_args)` with one noise level per row, and returns
    what it takes for the clean latents. `sigmas` are those of the whole run or of the computed
    steps alone, with where it ends. `callback` hears of every computed step.

    Args:
        scheduler: As it was exported.

    Raises:
        ConfigError: If it is of another sampler; and of `sample` if the noise levels are others.
    """
    if not isinstance(scheduler, CollapsedFlowMatchScheduler):
        raise ConfigError(
            "expected a CollapsedFlowMatchScheduler, whose models predict the flow, received "
            f"{type(scheduler).__name__}"
        )
    collapsed = scheduler.collapsed
    if collapsed.by_branch:
        raise ConfigError(
            "expected updates that weigh outputs as a sampler gets them, received some by guidance "
            "branch, which a model of k-diffusion does not tell; export without --fit"
        )

    @torch.no_grad()
    def sample(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        """Take latents from the first noise level to the last."""
        received = np.asarray(torch.as_tensor(sigmas).detach().cpu(), dtype=np.float64)
        if not (is_at(collapsed.levels, received) or is_at(collapsed.sigmas, received)):
            raise ConfigError(
                "expected the noise levels that the schedule was made for, "
                f"{collapsed.levels.tolist()}, received {received.tolist()}; take those, or export "
                "a scheduler for these"
            )
        outputs: tuple[Tensor, ...] = ()
        ones, extra = x.new_ones([len(x)]), dict(extra_args or {})
        for place in logging.tqdm(range(len(collapsed.path)), disable=disable):
            sigma = float(collapsed.times[place])
            denoised = model(x, sigma * ones, **extra)
            outputs = ((x - denoised) / sigma, *outputs)[:HISTORY]
            if callback is not None:
                level = ones.new_tensor(sigma)
                heard = {"x": x, "i": place, "sigma": level, "sigma_hat": level}
                callback({**heard, "denoised": denoised})
            x = collapsed.advance(place, x, outputs).to(x.dtype)
        return x

    return sample
