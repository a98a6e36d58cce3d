from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from ditcache_rl.instrument.clock import noise_levels
from ditcache_rl.rl.view import predicted

# Of arrays that diffusers makes of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS = [
    FlowMatchEulerDiscreteScheduler(),
    EulerDiscreteScheduler(timestep_spacing="trailing"),
    DDIMScheduler(clip_sample=False),
    DPMSolverMultistepScheduler(),
    DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda one: type(one).__name__)
def test_of_a_perfect_denoiser_the_clean_image_is_predicted_at_every_step(scheduler: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, 4, 8, 8, generator=generator)
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    scheduler.set_timesteps(10)
    levels = noise_levels(scheduler)
    flows = "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas")
    if flows:
        output, latents = noise - clean, (1 - levels[0]) * clean + levels[0] * noise
    else:
        output, latents = noise, clean + levels[0] * noise
        if float(scheduler.init_noise_sigma) == 1.0:  # the variance is kept
            latents = latents / (1 + levels[0] ** 2) ** 0.5
    for step, timestep in enumerate(scheduler.timesteps):
        before = latents
        latents = scheduler.step(output, timestep, before, return_dict=False)[0]
        if levels[step + 1] > 0:
            image = predicted(scheduler, before, latents, levels[step], levels[step + 1])
            # Float32 latents of noise levels up to 160, of which a difference is taken.
            torch.testing.assert_close(image, clean, atol=5e-3, rtol=0)
