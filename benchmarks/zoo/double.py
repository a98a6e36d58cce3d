"""A sampler that stays in float64, for laws that rounding would hide."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor


class DoubleEuler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler steps whose noise levels and latents stay in float64."""

    def set_timesteps(self, *args: Any, sigmas: Any = None, mu: Any = None, **kwargs: Any) -> None:
        """Set noise levels as the plain one does, and lose nothing from then on."""
        super().set_timesteps(*args, sigmas=sigmas, mu=mu, **kwargs)
        self.sigmas: Tensor = torch.as_tensor(self.sigmas, dtype=torch.float64)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Step."""
        if self.step_index is None:
            self._init_step_index(timestep)
        change = self.sigmas[self.step_index + 1] - self.sigmas[self.step_index]
        self._step_index += 1
        moved = sample + change * model_output
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)


def in_double(pipe: Any) -> Any:
    """Turn a flow-matching pipeline into one of float64, and return it."""
    pipe = pipe.to(torch.float64)
    pipe.scheduler = DoubleEuler.from_config(pipe.scheduler.config)
    return pipe
