from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ditcache_rl.bench import Case
from ditcache_rl.errors import ArtifactError, ConfigError, StateError
from ditcache_rl.instrument.taps import taps_of
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.maps import guidance_of
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.search.maps import fit_maps
from ditcache_rl.solver import (
    CollapsedFlowMatchScheduler,
    applied,
    collapsed_scheduler,
    k_diffusion_sampler,
)
from tests.kit.pipelines import CALL, GUIDANCE, PROMPTS, STEPS, assert_close, build_tiny_pipe

PATH = (0, 2, 4)
CASES = [Case(PROMPTS[0], 1), Case(PROMPTS[1], 2)]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_tiny_pipe()


@pytest.fixture(scope="module")
def loop(pipe: Any) -> FreeLoop:
    return FreeLoop(pipe, CASES, steps=STEPS, call=CALL | GUIDANCE)


def fitted(pipe: Any, loop: FreeLoop, *, by_branch: bool) -> CollapsedFlowMatchScheduler:
    made = collapsed_scheduler(pipe.scheduler, Schedule.on_path(PATH, STEPS), loop.sigmas)
    guidance = guidance_of(loop.full.outputs[0], loop.full.branches[0]) if by_branch else None
    found: CollapsedFlowMatchScheduler = made.following(
        fit_maps([loop], made.collapsed, guidance=guidance)
    )
    return found


def draw(pipe: Any, *, steps: int = len(PATH), **call: Any) -> Tensor:
    given = CALL | GUIDANCE | {"negative_prompt": [GUIDANCE["negative_prompt"]] * len(CASES)}
    latents: Tensor = pipe(
        [case.prompt for case in CASES],
        generator=[torch.Generator().manual_seed(case.seed) for case in CASES],
        num_inference_steps=steps,
        output_type="latent",
        **given | call,
    ).images
    return latents


@pytest.mark.parametrize("by_branch", [False, True])
@pytest.mark.parametrize("steps", [len(PATH), STEPS])
def test_a_saved_scheduler_draws_what_was_fitted(
    pipe: Any, loop: FreeLoop, tmp_path: Path, by_branch: bool, steps: int
) -> None:
    made = fitted(pipe, loop, by_branch=by_branch)
    made.save_pretrained(tmp_path)
    before = pipe.scheduler

    with applied(pipe, CollapsedFlowMatchScheduler.from_pretrained(tmp_path)) as same:
        found = draw(same, steps=steps)

    assert_close(found, loop.run(made.collapsed).latents[-1])
    assert pipe.scheduler is before
    assert not taps_of(pipe.transformer)


def test_what_needs_no_branches_is_put_in_as_any_scheduler(pipe: Any, loop: FreeLoop) -> None:
    made, before = fitted(pipe, loop, by_branch=False), pipe.scheduler
    pipe.scheduler = made
    try:
        found = draw(pipe)
    finally:
        pipe.scheduler = before

    assert_close(found, loop.run(made.collapsed).latents[-1])


def test_branches_that_nobody_hears_are_an_error(pipe: Any, loop: FreeLoop) -> None:
    before = pipe.scheduler
    pipe.scheduler = fitted(pipe, loop, by_branch=True)
    try:
        with pytest.raises(StateError, match=r"under ditcache_rl\.solver\.applied"):
            draw(pipe)
    finally:
        pipe.scheduler = before


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"true_cfg_scale": 3.0}, "is 1?[0-9]+% off from that sum"),
        ({"negative_prompt": None, "true_cfg_scale": 1.0}, "2 guidance branches, as in the fit"),
    ],
)
def test_other_guidance_is_refused_and_the_pipeline_left_as_it_was(
    pipe: Any, loop: FreeLoop, call: dict[str, Any], why: str
) -> None:
    before, made = pipe.scheduler, fitted(pipe, loop, by_branch=True)

    with pytest.raises(ConfigError, match=why), applied(pipe, made):
        draw(pipe, **call)

    assert pipe.scheduler is before
    assert not taps_of(pipe.transformer)
    with applied(pipe, made):
        found = draw(pipe)
    assert_close(found, loop.run(made.collapsed).latents[-1])


def test_a_plain_scheduler_is_refused(pipe: Any) -> None:
    with (
        pytest.raises(ConfigError, match="received FlowMatchEulerDiscreteScheduler"),
        applied(pipe, pipe.scheduler),
    ):
        pass


def test_matrices_that_do_not_fit_are_refused(pipe: Any, loop: FreeLoop) -> None:
    config = dict(fitted(pipe, loop, by_branch=True).config)
    config["maps"]["matrices"].pop()

    with pytest.raises(ArtifactError, match="maps that fit each other"):
        CollapsedFlowMatchScheduler.from_config(config)


def test_k_diffusion_takes_matrices_of_outputs_and_none_by_branch(
    pipe: Any, loop: FreeLoop
) -> None:
    made = fitted(pipe, loop, by_branch=False)
    run = loop.run(made.collapsed)
    outputs = iter(run.outputs)

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma[:, None, None] * next(outputs)

    levels = torch.tensor(made.collapsed.levels)
    found = k_diffusion_sampler(made)(model, run.latents[0], levels, disable=True)

    assert_close(found, run.latents[-1])
    with pytest.raises(ConfigError, match="by guidance branch"):
        k_diffusion_sampler(fitted(pipe, loop, by_branch=True))
