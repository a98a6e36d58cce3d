import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

import ditcache_rl as dc
from ditcache_rl.bench import Case
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ArtifactError, ConfigError, StateError
from ditcache_rl.inference import Target, policy_scheduler
from ditcache_rl.instrument.clock import noise_levels
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Schedule
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.solver import (
    CollapsedDDIMScheduler,
    CollapsedFlowMatchScheduler,
    collapsed_scheduler,
)
from tests.kit.doubles import build_double_pipe, fitted_schedule
from tests.kit.environment import levels_of, untrained_policy
from tests.kit.pipelines import GUIDANCE, PROMPTS, draw
from tests.kit.unet import CALL as UNET_CALL
from tests.kit.unet import save_unet_pipe

STEPS, PATH = 12, (0, 2, 5, 9)
SCHEDULE = fitted_schedule(STEPS, PATH)


@pytest.fixture
def pipe(tiny_pipe: Any) -> Iterator[Any]:
    scheduler = tiny_pipe.scheduler
    yield tiny_pipe
    tiny_pipe.scheduler = scheduler


@pytest.fixture
def saved(pipe: Any, tiny_call: dict[str, Any], tmp_path: Path) -> Path:
    made = collapsed_scheduler(pipe.scheduler, SCHEDULE, levels_of(pipe, tiny_call, STEPS))
    made.save_pretrained(tmp_path / "scheduler")
    return tmp_path / "scheduler"


@pytest.mark.parametrize("call", [{}, GUIDANCE], ids=["plain", "guided"])
@pytest.mark.parametrize("steps", [len(PATH), STEPS])
def test_a_saved_scheduler_draws_what_the_cache_draws(
    pipe: Any, saved: Path, steps: int, call: dict[str, Any]
) -> None:
    with dc.cached(pipe, StaticSchedule(SCHEDULE), blocks="transformer"):
        stepped = draw(pipe, steps=STEPS, **call)

    heard = list[int]()

    def listen(one: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        heard.append(step)
        return {}

    pipe.scheduler = CollapsedFlowMatchScheduler.from_pretrained(saved)
    found = draw(pipe, steps=steps, callback_on_step_end=listen, **call)

    # Latents of order 1, rounded a dozen times, through a model that turns them.
    torch.testing.assert_close(found, stepped, rtol=1e-5, atol=1e-5)
    assert heard == list(range(len(PATH)))


def test_a_pipeline_keeps_it_when_it_is_saved(pipe: Any, saved: Path, tmp_path: Path) -> None:
    pipe.scheduler = CollapsedFlowMatchScheduler.from_pretrained(saved)
    pipe.save_pretrained(tmp_path / "pipeline")
    opened = DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    opened.set_progress_bar_config(disable=True)

    assert dict(opened.scheduler.config) == dict(pipe.scheduler.config)
    assert torch.equal(draw(opened, steps=len(PATH)), draw(pipe, steps=len(PATH)))


def test_its_config_holds_that_of_the_plain_one(pipe: Any, saved: Path) -> None:
    found = CollapsedFlowMatchScheduler.from_pretrained(saved).config

    assert found.path == list(PATH)
    assert {name: found[name] for name in pipe.scheduler.config if name[0] != "_"} == {
        name: value for name, value in pipe.scheduler.config.items() if name[0] != "_"
    }


def test_ddim_is_saved_as_well(tmp_path: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(save_unet_pipe(tmp_path))
    pipe.set_progress_bar_config(disable=True)
    options = {"output_type": "latent", **UNET_CALL}

    def drawn(steps: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        images: torch.Tensor = pipe(
            "a disc", num_inference_steps=steps, generator=generator, **options
        ).images
        return images

    with dc.cached(pipe, StaticSchedule(SCHEDULE), blocks="unet") as run:
        stepped = drawn(STEPS)
    made = collapsed_scheduler(pipe.scheduler, SCHEDULE, run.logs[0].run.sigmas)
    made.save_pretrained(tmp_path / "scheduler")
    pipe.scheduler = CollapsedDDIMScheduler.from_pretrained(tmp_path / "scheduler")

    images = drawn(len(PATH))
    torch.testing.assert_close(images, stepped, rtol=1e-4, atol=1e-4)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    told = pipe.scheduler.timesteps.double().numpy() / pipe.scheduler.config.num_train_timesteps
    pipe.scheduler = pipe.scheduler.following(pipe.scheduler.collapsed._replace(told=told))
    assert torch.equal(drawn(len(PATH)), images)
    pipe.scheduler = pipe.scheduler.following(pipe.scheduler.collapsed._replace(told=told / 2))
    assert not torch.equal(drawn(len(PATH)), images)


TOLD = [1.04, 0.7, 0.45, 0.2]


@pytest.mark.parametrize("steps", [len(PATH), STEPS])
def test_told_times_of_the_grid_change_nothing(pipe: Any, saved: Path, steps: int) -> None:
    own = CollapsedFlowMatchScheduler.from_pretrained(saved)
    told = own.following(own.collapsed._replace(told=own.collapsed.levels[:-1]))
    pipe.scheduler = own
    expected = draw(pipe, steps=steps)
    pipe.scheduler = told

    assert torch.equal(draw(pipe, steps=steps), expected)
    assert torch.equal(told.timesteps, own.timesteps)
    assert own.config.told is None


def test_told_times_are_saved_and_told(pipe: Any, saved: Path, tmp_path: Path) -> None:
    own = CollapsedFlowMatchScheduler.from_pretrained(saved)
    made = own.following(own.collapsed._replace(told=np.array(TOLD)))
    made.save_pretrained(tmp_path / "told")
    found = CollapsedFlowMatchScheduler.from_pretrained(tmp_path / "told")
    heard = list[float]()
    pipe.scheduler = found
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, given: heard.append(float(given["timestep"])), with_kwargs=True
    )
    images = draw(pipe, steps=len(PATH))
    hook.remove()
    pipe.scheduler = made

    assert dict(found.config) == dict(made.config)
    np.testing.assert_array_equal(found.collapsed.times, TOLD)
    np.testing.assert_allclose(heard, TOLD, rtol=1e-6)
    assert torch.equal(draw(pipe, steps=len(PATH)), images)
    found.set_timesteps()
    with pytest.raises(ConfigError, match=r"from its first step"):
        found.step(images, 1000.0, images)


def test_told_times_draw_what_the_loop_that_fits_them_draws(tiny_call: dict[str, Any]) -> None:
    pipe = build_double_pipe()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    made = collapsed_scheduler(pipe.scheduler, SCHEDULE, levels_of(pipe, tiny_call, STEPS))
    made = made.following(made.collapsed._replace(told=np.array(TOLD)))
    loop = FreeLoop(pipe, [Case(PROMPTS[0], 1)], steps=STEPS, call=tiny_call)
    solver = FreeSolver.of(made.collapsed, 3)
    expected = loop.run(solver).latents[-1]
    pipe.scheduler = made
    drawn = draw(pipe, steps=len(PATH), prompts=PROMPTS[:1], seeds=(1,))

    assert expected.dtype == torch.float64
    assert (drawn - expected).abs().max() < 1e-12
    assert solver.within(made.collapsed).updates.tolist() == made.collapsed.updates.tolist()


@pytest.mark.parametrize("steps", [1, 3, 5, 28])
def test_a_step_count_that_it_was_not_made_for_is_refused(saved: Path, steps: int) -> None:
    scheduler = CollapsedFlowMatchScheduler.from_pretrained(saved)

    with pytest.raises(ConfigError, match=rf"4 steps, or the 12 that .* received {steps}"):
        scheduler.set_timesteps(steps)


def test_noise_levels_that_it_was_not_made_for_are_refused() -> None:
    plain = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    levels = np.linspace(1.0, 1 / STEPS, STEPS)
    plain.set_timesteps(sigmas=levels, mu=0.8)
    scheduler = collapsed_scheduler(plain, SCHEDULE, noise_levels(plain))

    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 4, 4), mu=0.8)
    torch.testing.assert_close(scheduler.timesteps, plain.timesteps[list(PATH)])
    with pytest.raises(ConfigError, match=r"as of another size or shift"):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 4, 4), mu=1.1)


def test_a_run_that_begins_inside_is_refused(saved: Path) -> None:
    scheduler = CollapsedFlowMatchScheduler.from_pretrained(saved)
    scheduler.set_timesteps()
    latents = torch.ones(1, 2)

    with pytest.raises(ConfigError, match=r"from its first step"):
        scheduler.set_begin_index(1)
    with pytest.raises(ConfigError, match=r"from its first step"):
        scheduler.step(latents, scheduler.timesteps[1], latents)


def test_steps_without_timesteps_or_after_the_last_are_refused(saved: Path) -> None:
    scheduler = CollapsedFlowMatchScheduler.from_pretrained(saved)
    latents = torch.ones(1, 2)

    with pytest.raises(StateError, match="before timesteps were set"):
        scheduler.step(latents, 1000.0, latents)
    scheduler.set_timesteps()
    for timestep in scheduler.timesteps:
        scheduler.step(latents, timestep, latents)
    with pytest.raises(StateError, match="after 4"):
        scheduler.step(latents, 0.0, latents)


def test_a_second_run_begins_anew(saved: Path) -> None:
    scheduler = CollapsedFlowMatchScheduler.from_pretrained(saved)
    found = []
    for _ in range(2):
        scheduler.set_timesteps()
        latents = torch.ones(1, 2)
        for timestep in scheduler.timesteps:
            latents = scheduler.step(latents / 2, timestep, latents).prev_sample
        found.append(latents)

    assert torch.equal(*found)


@pytest.mark.parametrize(
    "changed",
    [
        {"path": [1, 2, 5, 9]},
        {"path": [0, 2, 5, 12]},
        {"path": [0, 5, 2, 9]},
        {"path": [0]},
        {"keeps": [1.0]},
        {"levels": [1.0, 0.0]},
        {"levels": []},
        {"updates": "x"},
        {"updates": [[float("nan")] * 3] * 4},
        {"told": [1.0, 0.5]},
        {"told": [1.0, 0.5, 0.2, 0.0]},
        {"told": [1.0, 0.5, 0.2, float("inf")]},
        {"told": "x"},
    ],
)
def test_a_config_that_does_not_fit_is_refused(saved: Path, changed: dict[str, Any]) -> None:
    scheduler = CollapsedFlowMatchScheduler.from_pretrained(saved)

    with pytest.raises(ArtifactError, match="export it again"):
        CollapsedFlowMatchScheduler.from_config(scheduler.config, **changed)


def test_only_samplers_with_a_class_to_load_are_saved() -> None:
    with pytest.raises(ConfigError, match="received EulerDiscreteScheduler; any sampler"):
        collapsed_scheduler(EulerDiscreteScheduler(), SCHEDULE, np.linspace(1, 0, 13))
    noisy = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    with pytest.raises(ConfigError, match="draws noise"):
        collapsed_scheduler(noisy, SCHEDULE, np.linspace(1, 0, 13))


@pytest.fixture
def policy(pipe: Any, tiny_call: dict[str, Any]) -> Policy:
    made = untrained_policy(pipe, tiny_call)
    return replace(made, manifest=replace(made.manifest, blocks="transformer"))


def test_a_policy_becomes_a_scheduler_of_what_it_does(pipe: Any, policy: Policy) -> None:
    with dc.cached(pipe, policy, budget=0.5):
        stepped = draw(pipe, steps=4)

    pipe.scheduler = policy_scheduler(policy, pipe.scheduler, Target(budget=0.5))

    torch.testing.assert_close(draw(pipe, steps=2), stepped, rtol=1e-5, atol=1e-5)


def test_a_policy_that_is_no_sampler_is_refused(
    pipe: Any, tiny_call: dict[str, Any], policy: Policy
) -> None:
    target, scheduler = Target(budget=0.5), pipe.scheduler

    with pytest.raises(ConfigError, match="2 sites of the blocks"):
        policy_scheduler(untrained_policy(pipe, tiny_call, sites=2), scheduler, target)
    online = untrained_policy(pipe, tiny_call, adaptive={"4": [2]})
    online = replace(online, manifest=replace(online.manifest, blocks="transformer"))
    with pytest.raises(ConfigError, match="decides as it goes"):
        policy_scheduler(online, scheduler, target)
    with pytest.raises(ConfigError, match="over='requests'"):
        policy_scheduler(policy, scheduler, Target(min_psnr=1.0, over="requests"))
    with pytest.raises(ConfigError, match=r"\[4.*\], received 7"):
        policy_scheduler(policy, scheduler, target, steps=7)
    other = FlowMatchEulerDiscreteScheduler(shift=7.0)
    with pytest.raises(ArtifactError, match="policy of another sampler"):
        policy_scheduler(policy, other, target)


def test_plain_diffusers_opens_it_without_our_pipelines(saved: Path) -> None:
    """Neither hooks nor controllers are needed in the process that draws."""
    code = (
        "from ditcache_rl.solver import CollapsedFlowMatchScheduler as S; "
        f"s = S.from_pretrained({str(saved)!r}); s.set_timesteps(); print(len(s.timesteps))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "4"


def test_schedules_without_coefficients_are_saved_as_well(pipe: Any, tiny_call: Any) -> None:
    schedule = Schedule.from_text("CR1C")
    sigmas = levels_of(pipe, tiny_call, 4)

    made = collapsed_scheduler(pipe.scheduler, schedule, sigmas)
    made.set_timesteps(2)

    np.testing.assert_allclose(made.sigmas.numpy(), sigmas[[0, 3, 4]], rtol=1e-6)
