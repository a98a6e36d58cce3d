import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ditcache_rl as dc
from ditcache_rl.control import EveryK
from ditcache_rl.errors import ConfigError
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored
from ditcache_rl.types import HISTORY
from tests.kit.environment import PROMPTS, untrained_policy


@pytest.fixture
def policy(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Policy:
    return untrained_policy(tiny_pipe, tiny_call)


def draw(pipe: Any, call: dict[str, Any], *, output_type: str = "pt", **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 4, "generator": generator} | options
    return pipe(PROMPTS["test"][0], output_type=output_type, **call, **options).images


def known(bandit: dc.Bandit) -> int:
    return len([line for line in bandit.summary() if "audits" in line])


def test_an_audited_request_returns_the_reference(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    before: Tensor = draw(tiny_pipe, tiny_call)
    bandit = dc.Bandit(min_psnr=1.0, audit=1.0)

    with dc.cached(tiny_pipe, policy, adapt=bandit) as run:
        audited = [draw(tiny_pipe, tiny_call) for _ in range(3)]

    assert all(torch.equal(image, before) for image in audited)
    assert run.logs, "schedules ran beside it"
    assert known(bandit) == 1


def test_a_schedule_whose_image_is_not_finite_fails_its_audit_and_no_request(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    before: Tensor = draw(tiny_pipe, tiny_call)
    table = policy.tables[4]
    huge = Schedule(table[2].schedule.modes, np.full((4, HISTORY), 3e38))
    broken = replace(policy, tables={4: ScheduleTable.of(table.sigmas, [Scored(huge, 50.0, 1.0)])})
    bandit = dc.Bandit(min_psnr=1.0, audit=1.0)

    with dc.cached(tiny_pipe, broken, adapt=bandit):
        audited = draw(tiny_pipe, tiny_call)

    assert torch.equal(audited, before)
    assert "2 computes 0.0 dB (1 audits)" in bandit.summary()[0]


def test_what_was_audited_is_served_after_a_restart(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    state = tmp_path / "bandit.json"
    with dc.cached(tiny_pipe, policy, adapt=dc.Bandit(min_psnr=1.0, audit=1.0, state=state)):
        for _ in range(6):
            draw(tiny_pipe, tiny_call)

    bandit = dc.Bandit(min_psnr=1.0, audit=1e-9, state=state)
    with dc.cached(tiny_pipe, policy, adapt=bandit) as run:
        draw(tiny_pipe, tiny_call)

    assert run.logs[0].compute_share < 1
    assert "audited       4 steps, 1 rows" in run.summary()


def test_a_floor_that_nothing_reaches_leaves_the_plain_pipeline(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    before: Tensor = draw(tiny_pipe, tiny_call)

    with dc.cached(tiny_pipe, policy, adapt=dc.Bandit(min_psnr=60.0, audit=1e-9)):
        assert torch.equal(draw(tiny_pipe, tiny_call), before)


def test_switched_off_it_follows_the_target(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    bandit = dc.Bandit(min_psnr=60.0, audit=1.0)
    with dc.cached(tiny_pipe, policy, budget=0.5, adapt=bandit) as run:
        bandit.active = False
        draw(tiny_pipe, tiny_call)

    assert [log.compute_share.tolist() for log in run.logs] == [[0.5]]
    assert not known(bandit)


@pytest.mark.parametrize("options", [{"generator": None}, {"output_type": "latent"}])
def test_what_cannot_be_compared_is_not_audited(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any], options: dict[str, Any]
) -> None:
    bandit = dc.Bandit(min_psnr=1.0, audit=1.0)
    with dc.cached(tiny_pipe, policy, adapt=bandit):
        draw(tiny_pipe, tiny_call, **options)

    assert not known(bandit)


@pytest.mark.parametrize("output_type", ["pil", "np"])
def test_images_of_every_form_are_compared(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any], output_type: str
) -> None:
    bandit = dc.Bandit(min_psnr=1.0, audit=1.0)
    with dc.cached(tiny_pipe, policy, adapt=bandit):
        draw(tiny_pipe, tiny_call, output_type=output_type)

    assert known(bandit) == 1


def test_a_callback_hears_an_audited_request_once(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    heard = []

    def listen(pipe: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        heard.append(step)
        return kept

    with dc.cached(tiny_pipe, policy, adapt=dc.Bandit(min_psnr=1.0, audit=1.0)):
        draw(tiny_pipe, tiny_call, callback_on_step_end=listen)

    assert heard == [0, 1, 2, 3]


@pytest.mark.parametrize("audit", [1.0, 1e-9])
def test_steps_come_from_the_scheduler(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any], audit: float
) -> None:
    levels = {"sigmas": [1.0, 0.7, 0.5, 0.2], "num_inference_steps": None}
    plain = _without_steps(tiny_pipe, tiny_call, **levels)
    bandit = dc.Bandit(min_psnr=1.0, audit=audit)

    with dc.cached(tiny_pipe, policy, adapt=bandit) as run:
        drawn = _without_steps(tiny_pipe, tiny_call, **levels)
        _without_steps(tiny_pipe, tiny_call, **levels | {"sigmas": [1.0, 0.5]})

    assert {log.run.num_inference_steps for log in run.logs} == {4, 2}
    assert torch.equal(drawn, plain) is (audit == 1.0)
    assert all("4 steps" in line and "noise levels" in line for line in bandit.summary())
    assert known(bandit) == (audit == 1.0)


def _without_steps(pipe: Any, call: dict[str, Any], **options: Any) -> Tensor:
    """Draw with `num_inference_steps` left out, where it is None."""
    options = {name: value for name, value in options.items() if value is not None}
    generator = torch.Generator().manual_seed(0)
    prompt = PROMPTS["test"][0]
    images: Tensor = pipe(prompt, output_type="pt", generator=generator, **call, **options).images
    return images


def test_a_pipeline_of_timesteps_is_served_as_one_of_step_counts(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    class FromTimesteps(type(tiny_pipe)):  # type: ignore[misc]
        def __call__(self, prompt: str, timesteps: Any = None, **more: Any) -> Any:
            sigmas = [t / 1000 for t in timesteps]
            return super().__call__(prompt, sigmas=sigmas, num_inference_steps=6, **more)

    pipe = copy.copy(tiny_pipe)
    pipe.__class__ = FromTimesteps
    bandit = dc.Bandit(min_psnr=1.0, audit=1.0)
    with dc.cached(pipe, policy, adapt=bandit) as run:
        _without_steps(pipe, tiny_call, timesteps=[1000, 750, 500, 250])

    assert {log.run.num_inference_steps for log in run.logs} == {4}
    assert known(bandit) == 1


def test_an_audit_repeats_the_noise_and_uses_it_once(
    tiny_pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    plain, attached = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    first = draw(tiny_pipe, tiny_call, generator=plain)
    with dc.cached(tiny_pipe, policy, adapt=dc.Bandit(min_psnr=1.0, audit=1.0)) as run:
        assert torch.equal(draw(tiny_pipe, tiny_call, generator=attached), first)

    assert torch.equal(plain.get_state(), attached.get_state())
    assert run.logs[0].compute_share == 1
    assert all(log.compute_share < 1 for log in list(run.logs)[1:])


def test_a_controller_leaves_nothing_to_choose(tiny_pipe: Any) -> None:
    with pytest.raises(ConfigError, match="the controller EveryK"):
        dc.attach(tiny_pipe, EveryK(2), adapt=dc.Bandit(min_psnr=35))
