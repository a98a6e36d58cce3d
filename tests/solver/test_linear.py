from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ditcache_rl.errors import ConfigError
from ditcache_rl.solver.linear import check_sampler, linear_steps

# Some samplers of diffusers hand numpy tensors in a way that it will give up; only tests meet them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS: dict[str, Callable[[], Any]] = {
    "flow": FlowMatchEulerDiscreteScheduler,
    "flow-shifted": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    "flow-inverted": lambda: FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    "ddim": lambda: DDIMScheduler(clip_sample=False),
    "ddim-v": lambda: DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    "cogvideox": diffusers.CogVideoXDDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpm-1": lambda: diffusers.DPMSolverMultistepScheduler(solver_order=1),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_step_is_what_it_keeps_and_adds(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(6, **({"mu": 1.0} if name == "flow-shifted" else {}))
    linear = linear_steps(scheduler)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 3, 4, 4, generator=generator)

    for (keep, add), timestep in zip(linear, scheduler.timesteps, strict=True):
        if name == "euler":
            scheduler.scale_model_input(latents, timestep)
        output = torch.randn(latents.shape, generator=generator)
        moved = scheduler.step(output, timestep, latents, return_dict=False)[0]

        # Samplers round their own factors to float32.
        torch.testing.assert_close(moved, float(keep) * latents + float(add) * output)
        latents = moved


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "draws noise"),
        (diffusers.EulerAncestralDiscreteScheduler, "draws noise"),
        (diffusers.DDPMScheduler, "draws noise"),
        (diffusers.LCMScheduler, "draws noise"),
        (DDIMScheduler, "clips"),
        (lambda: DDIMScheduler(clip_sample=False, thresholding=True), "clips"),
        (diffusers.UniPCMultistepScheduler, "steps before"),
        (diffusers.DPMSolverMultistepScheduler, "steps before"),
        (diffusers.PNDMScheduler, "steps before"),
        (diffusers.CogVideoXDPMScheduler, "used otherwise: .*timestep_back"),
        (diffusers.SCMScheduler, "used otherwise: Intermediate timesteps"),
        (diffusers.HeunDiscreteScheduler, "order 2"),
        (diffusers.FlowMatchHeunDiscreteScheduler, "order 2"),
    ],
)
def test_a_sampler_that_is_not_linear_is_refused_with_the_reason(
    make: Callable[[], Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=rf"linear in latents and output.*{why}"):
        check_sampler(make())


def test_trying_a_sampler_leaves_it_and_global_randomness_alone() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    torch.manual_seed(0)
    before = torch.get_rng_state()

    check_sampler(scheduler)
    linear = linear_steps(scheduler)

    np.testing.assert_allclose(linear[:, 1], np.diff(scheduler.sigmas.numpy()), rtol=1e-6)
    assert scheduler.step_index is None
    assert len(scheduler.timesteps) == 4
    assert torch.equal(torch.get_rng_state(), before)
