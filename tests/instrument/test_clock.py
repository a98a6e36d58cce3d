import copy
from typing import Any

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

    for t in scheduler.timesteps:
        for _ in range(calls):
            seen.append(clock.read(t).step)
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

    assert [clock.read(scaled(t)).step for t in scheduler.timesteps] == list(range(5))  # type: ignore[operator]


def test_a_call_that_starts_late_starts_at_its_step() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(2)

    assert Clock(scheduler).read(scheduler.timesteps[2]) == (2, True)


def walk(scheduler: Any, clock: Clock, *, calls: int = 2, steps: int | None = None) -> list[bool]:
    """Go through the timesteps, with some calls a step; tell at which calls runs began."""
    sample, began = torch.zeros(1, 2), list[bool]()
    for index, t in enumerate(scheduler.timesteps):
        if index == steps:
            break
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, t)
        began += [clock.read(t).began for _ in range(calls)]
        sample = scheduler.step(sample, t, sample).prev_sample
    return began


@pytest.mark.parametrize("stopped", [None, 1, 3])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_setting_timesteps_begins_a_run_be_they_the_same(
    name: str, count: int, stopped: int | None
) -> None:
    scheduler = SCHEDULERS[name]()
    clock = Clock(scheduler)

    for steps in (count, count, 5):
        scheduler.set_timesteps(steps)
        began = walk(scheduler, clock, steps=stopped)
        assert began == [True] + [False] * (len(began) - 1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_step_that_goes_back_begins_a_run(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    clock = Clock(scheduler)
    scheduler.set_timesteps(5)

    for stopped in (None, 3, None):
        began = walk(scheduler, clock, steps=stopped)
        assert began == [True] + [False] * (len(began) - 1)
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = None


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_state_that_is_put_back_begins_no_run(name: str) -> None:
    scheduler, sample = SCHEDULERS[name](), torch.zeros(1, 2)
    clock = Clock(scheduler)
    scheduler.set_timesteps(5)
    parts = [copy.deepcopy(scheduler.__dict__) for _ in range(3)]

    began = []
    for t in scheduler.timesteps:
        for part, state in enumerate(parts):
            scheduler.__dict__.update(state)
            began.append(clock.read(t).began)
            scheduler.step(sample, t, sample)
            parts[part] = copy.deepcopy(scheduler.__dict__)

    assert began == [True] + [False] * (len(began) - 1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_timesteps_that_are_moved_in_the_middle_begin_no_run(name: str) -> None:
    scheduler, sample = SCHEDULERS[name](), torch.zeros(1, 2)
    clock = Clock(scheduler)
    scheduler.set_timesteps(5)

    began = []
    for t in scheduler.timesteps:
        began.append(clock.read(t).began)
        scheduler.step(sample, t, sample)
        scheduler.timesteps = scheduler.timesteps.clone()

    assert began == [True] + [False] * (len(began) - 1)


def test_timesteps_that_are_made_at_every_look_are_one_run() -> None:
    class Made(EulerDiscreteScheduler):  # type: ignore[misc]
        @property
        def timesteps(self) -> torch.Tensor:
            return self.kept.clone()

        @timesteps.setter
        def timesteps(self, values: torch.Tensor) -> None:
            self.kept = values

    scheduler = Made()
    clock = Clock(scheduler)

    for _ in range(2):
        scheduler.set_timesteps(5)
        assert walk(scheduler, clock) == [True] + [False] * 9


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_loop_has_begun_when_timesteps_are_set_or_the_scheduler_moves(name: str) -> None:
    scheduler, sample = SCHEDULERS[name](), torch.zeros(1, 2)
    scheduler.set_timesteps(5)

    setting, moving = Clock(scheduler), Clock(scheduler)
    assert not setting.started()
    t = scheduler.timesteps[0]
    scheduler.step(sample, t, sample)
    assert moving.started() == hasattr(scheduler, "step_index")
    setting = Clock(scheduler)
    assert not setting.started()
    scheduler.set_timesteps(5)
    assert setting.started()


@given(st.lists(st.sampled_from([1.0, 0.7, 0.5, 0.2]), min_size=1, max_size=8).map(sorted))
def test_spreading_keeps_order_and_first_visits(levels: list[float]) -> None:
    falling = np.array(levels[::-1])

    spread = distinct(falling)

    assert (np.diff(spread) < 0).all()
    first = np.flatnonzero(np.append(True, np.diff(falling) != 0))
    assert np.array_equal(spread[first], falling[first])
