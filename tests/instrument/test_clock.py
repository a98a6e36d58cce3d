import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.instrument.clock import Clock, distinct

# Schedulers of diffusers hand a tensor to `np.array`, which torch answers with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SCHEDULERS = {
    "flow": FlowMatchEulerDiscreteScheduler,
    "euler": EulerDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "dpm2": KDPM2DiscreteScheduler,
    "ddim": DDIMScheduler,
    "pndm": lambda: PNDMScheduler(skip_prk_steps=True),
}


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_are_counted_once_each_whatever_the_sampler(name: str, calls: int) -> None:
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(5)
    clock, sample = Clock(scheduler), torch.zeros(1, 2)
    seen: list[int] = []

    clock.restarted()
    for t in scheduler.timesteps:
        for call in range(calls):
            seen.append(clock.step(t, again=bool(seen) and call == 0))
        sample = scheduler.step(sample, t, sample).prev_sample

    assert seen == [step for step in range(len(scheduler.timesteps)) for _ in range(calls)]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_levels_are_as_many_as_steps_and_one_and_all_different(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(5)

    sigmas = Clock(scheduler).sigmas()

    assert len(sigmas) == len(scheduler.timesteps) + 1
    assert len(set(sigmas.tolist())) == len(sigmas)
    assert np.isfinite(sigmas).all()


@pytest.mark.parametrize("scaled", [lambda t: t / 1000, lambda t: 1 - t / 1000])
def test_a_scaled_timestep_is_found(scaled: object) -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    clock = Clock(scheduler)
    clock.restarted()

    assert [clock.step(scaled(t), False) for t in scheduler.timesteps] == list(range(5))  # type: ignore[operator]


def test_a_call_that_starts_late_starts_at_its_step() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(2)
    clock = Clock(scheduler)
    clock.restarted()

    assert clock.step(scheduler.timesteps[2], False) == 2


def test_other_timesteps_are_another_run_and_the_same_are_not() -> None:
    scheduler = EulerDiscreteScheduler()
    clock = Clock(scheduler)

    found = []
    for steps in (4, 4, 6):
        scheduler.set_timesteps(steps)
        found += [clock.restarted(), clock.restarted()]

    assert found == [True, False, False, False, True, False]


@given(st.lists(st.sampled_from([1.0, 0.7, 0.5, 0.2]), min_size=1, max_size=8).map(sorted))
def test_spreading_keeps_order_and_first_visits(levels: list[float]) -> None:
    falling = np.array(levels[::-1])

    spread = distinct(falling)

    assert (np.diff(spread) < 0).all()
    first = np.flatnonzero(np.append(True, np.diff(falling) != 0))
    assert np.array_equal(spread[first], falling[first])
