from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import Schedule
from ditcache_rl.solver import collapsed_scheduler, k_diffusion_sampler
from ditcache_rl.types import Floats
from tests.kit.doubles import fitted_schedule

STEPS, PATH = 12, (0, 2, 5, 9)
LEVELS: Floats = np.linspace(1, 0, STEPS + 1) ** 1.3


def sampler(schedule: Schedule) -> Callable[..., Tensor]:
    plain = FlowMatchEulerDiscreteScheduler()
    return k_diffusion_sampler(collapsed_scheduler(plain, schedule, LEVELS))


def flow(x: Tensor, sigma: Tensor) -> Tensor:
    """A velocity that depends on where and when it is asked for."""
    return torch.sin(3 * x) + sigma.reshape(-1, 1) * x.cos()


def model(x: Tensor, sigma: Tensor, scale: float = 1.0) -> Tensor:
    """The same as k-diffusion is given it: what the clean latents are taken for."""
    return x - scale * sigma.reshape(-1, 1) * flow(x, sigma)


def stepped(x: Tensor, schedule: Schedule, scale: float = 1.0) -> Tensor:
    """Walk every step, as the cache does."""
    known = list[Tensor]()
    for step in range(STEPS):
        if schedule.modes[step, 0] == 0:
            known.insert(0, scale * flow(x, x.new_full((len(x),), LEVELS[step])))
            output = known[0]
        else:
            assert schedule.coefficients is not None
            own = schedule.coefficients[step]
            output = sum((float(c) * v for c, v in zip(own, known, strict=False)), 0 * x)
        x = x + float(LEVELS[step + 1] - LEVELS[step]) * output
    return x


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("levels", [LEVELS, LEVELS[[*PATH, STEPS]]], ids=["all", "computed"])
def test_a_sampler_draws_what_single_steps_draw(latents: Tensor, levels: Floats) -> None:
    schedule = fitted_schedule(STEPS, PATH)
    found = sampler(schedule)(model, latents, torch.tensor(levels), {"scale": 0.5}, disable=True)

    # A dozen sums of order 1 in another order.
    assert (found - stepped(latents, schedule, 0.5)).abs().max() < 1e-12


def test_told_times_are_those_that_the_model_is_called_with(latents: Tensor) -> None:
    made = collapsed_scheduler(
        FlowMatchEulerDiscreteScheduler(), fitted_schedule(STEPS, PATH), LEVELS
    )
    own = made.collapsed
    told, same = np.array([1.04, 0.7, 0.45, 0.2]), own._replace(told=own.levels[:-1])
    expected, outputs = latents, list[Tensor]()
    for place, time in enumerate(told):
        outputs.insert(0, flow(expected, expected.new_full((3,), time)))
        expected = own.advance(place, expected, outputs[:3])

    def drawn(scheduler: Any) -> Tensor:
        return k_diffusion_sampler(scheduler)(model, latents, torch.tensor(LEVELS), disable=True)

    # What is called the flow is divided and multiplied by the told level in between.
    found = drawn(made.following(own._replace(told=told)))
    assert (found - expected).abs().max() < 1e-12
    assert torch.equal(drawn(made.following(same)), drawn(made))


def test_full_compute_is_the_euler_sampler(latents: Tensor) -> None:
    """As `sample_euler` of k-diffusion without churn: a derivative, and a step along it."""
    expected, sigmas = latents, torch.tensor(LEVELS)
    for step in range(STEPS):
        denoised = model(expected, sigmas[step] * expected.new_ones(3))
        derivative = (expected - denoised) / sigmas[step]
        expected = expected + derivative * (sigmas[step + 1] - sigmas[step])

    full = Schedule.on_path(tuple(range(STEPS)), STEPS)
    found = sampler(full)(model, latents, sigmas, disable=True)

    assert (found - expected).abs().max() < 1e-12


def test_the_callback_hears_of_computed_steps_as_of_k_diffusion(latents: Tensor) -> None:
    heard = list[dict[str, Any]]()
    sigmas = torch.tensor(LEVELS, dtype=torch.float32)

    found = sampler(fitted_schedule(STEPS, PATH))(
        model, latents.float(), sigmas, callback=heard.append, disable=True
    )

    assert found.dtype == torch.float32
    assert [one["i"] for one in heard] == [0, 1, 2, 3]
    assert {frozenset(one) for one in heard} == {
        frozenset({"x", "i", "sigma", "sigma_hat", "denoised"})
    }
    torch.testing.assert_close(torch.stack([one["sigma"] for one in heard]), sigmas[list(PATH)])
    for one in heard:
        assert torch.equal(one["denoised"], model(one["x"], one["sigma"] * torch.ones(3)))


def test_other_noise_levels_are_refused(latents: Tensor) -> None:
    with pytest.raises(ConfigError, match="the noise levels that the schedule was made for"):
        sampler(fitted_schedule(STEPS, PATH))(model, latents, torch.linspace(1, 0, STEPS + 1))


def test_a_scheduler_of_another_kind_is_refused() -> None:
    plain = DDIMScheduler(clip_sample=False)

    with pytest.raises(ConfigError, match="received DDIMScheduler"):
        k_diffusion_sampler(plain)
