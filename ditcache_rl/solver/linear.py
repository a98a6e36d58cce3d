"""Find out what a step of a sampler multiplies latents and output with, by trying it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.schedulers import copied
from ditcache_rl.types import Floats

#: Numbers that a step is tried on: two that tell, one that stays zero, and some to check with.
_TRIED = 8
#: Far beyond what samplers clip at, which is 1, and of other size than a step changes.
_SCALE = 10.0
#: Samplers round their own factors to float32; what is not linear is off by far more.
_SLACK = 1e-5


def linear_steps(scheduler: Any) -> Floats:
    """Return what each step multiplies latents and output with: (T, 2).

    Args:
        scheduler: With its timesteps set; a copy of it is run.

    Raises:
        ConfigError: If a step draws noise, looks at what was before, clips what it predicts, or is
            one of several for a timestep.
    """
    name = type(scheduler).__name__
    if getattr(scheduler, "order", 1) != 1:
        raise ConfigError(_refusal(name, f"one of order {scheduler.order}"))
    trial = _on_host(scheduler)
    generator = torch.Generator().manual_seed(0)
    named = inspect.signature(trial.step).parameters
    options = {"generator": generator} if "generator" in named else {}
    found = np.empty((len(trial.timesteps), 2))
    for step, timestep in enumerate(trial.timesteps):
        latents, output = (_SCALE * torch.randn(2, _TRIED, generator=generator)).double()
        latents[:3], output[:3] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
        shape = (1, _TRIED, 1, 1)
        if hasattr(trial, "scale_model_input"):
            trial.scale_model_input(latents.reshape(shape), timestep)
        moved = trial.step(
            output.reshape(shape), timestep, latents.reshape(shape), return_dict=False, **options
        )[0].flatten()
        keep, add = moved[:2].double()
        if moved[2] != 0:
            raise ConfigError(_refusal(name, "one that draws noise"))
        expected = keep * latents + add * output
        slack = _SLACK * (1 + (keep * latents).abs() + (add * output).abs())
        if not bool(((moved - expected).abs() <= slack).all()):
            raise ConfigError(
                _refusal(name, "one that clips what it predicts, or uses outputs of steps before")
            )
        found[step] = float(keep), float(add)
    return found


def check_sampler(scheduler: Any) -> None:
    """Refuse a sampler that `linear_steps` refuses, at a few steps of its own choice.

    Raises:
        ConfigError: As `linear_steps`, or if a step takes more than latents and output.
    """
    try:
        linear_steps(set_anyhow(scheduler, 4))
    except ConfigError:
        raise
    except Exception as error:  # whatever a sampler makes of what it does not know
        name = type(scheduler).__name__
        raise ConfigError(_refusal(name, f"one that is used otherwise: {error}")) from error


def set_anyhow(scheduler: Any, steps: int) -> Any:
    """Return a copy of a scheduler with so many timesteps, of any shift."""
    own = _on_host(scheduler)
    shifts = getattr(own.config, "use_dynamic_shifting", False)
    own.set_timesteps(steps, **({"mu": 1.0} if shifts else {}))
    return own


def _on_host(scheduler: Any) -> Any:
    own = copied(scheduler)
    for name, value in vars(own).items():
        if isinstance(value, torch.Tensor):
            setattr(own, name, value.detach().cpu())
    return own


def _refusal(name: str, received: str) -> str:
    return (
        "expected a sampler whose steps are linear in latents and output, as flow-matching Euler "
        f"or DDIM without clip_sample, to collapse, received {name}, {received}; leave out "
        "collapse=True, or export schedules"
    )
