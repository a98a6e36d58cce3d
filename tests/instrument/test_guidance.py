"""Guidance may be switched off, on, and for a part of the steps: every branch keeps its history."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.zoo.checks import STEPS
from benchmarks.zoo.draws import Draw
from benchmarks.zoo.pipelines import PIPELINES, build
from benchmarks.zoo.rows import PerRow
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.types import Mode

#: diffusers deprecates arguments of its own pipelines.
pytestmark = pytest.mark.filterwarnings("ignore")
MODES = (0, 1, 0, 1, 1, 0)
#: Too weak to be seen, and enough to keep both branches in the batch.
HARDLY = 1 + 1e-7
#: Steps after which guidance is switched.
AFTER = 2


@pytest.fixture(scope="module", params=["StableDiffusionPipeline", "StableDiffusion3Pipeline"])
def batched(request: Any) -> Any:
    """A pipeline with both branches in one batch."""
    return request.param, build(request.param)


def call(name: str, pipe: Any, **more: Any) -> Tensor:
    facts = PIPELINES[name]
    given = {
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(1),
        "output_type": "latent",
        "return_dict": False,
        **facts.call(Draw([1]), facts.sides[0]),
        **more,
    }
    drawn: Tensor = pipe(**given)[0]
    return drawn


def cached(name: str, pipe: Any, **more: Any) -> tuple[Tensor, RequestLog]:
    logs: list[RequestLog] = []
    with BlockRunner(pipe, PerRow([MODES]), TieredCache(), on_finish=logs.append):
        drawn = call(name, pipe, **more)
    return drawn, logs[-1]


def modes(log: RequestLog) -> list[int]:
    found: list[int] = log.modes[:, 0, 0].tolist()
    return found


def switch_off(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Go on without guidance, as the documentation of diffusers says."""
    if step + 1 == AFTER:
        pipe._guidance_scale = 0.0
        tensors = {name: tensor.chunk(2)[-1] for name, tensor in tensors.items()}
    return tensors


def fade_out(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Go on with both branches, of which only one counts."""
    if step + 1 == AFTER:
        pipe._guidance_scale = HARDLY
    return tensors


def inputs_of(name: str) -> list[str]:
    """Name the tensors that hold both branches."""
    pooled = name == "StableDiffusion3Pipeline"
    return ["prompt_embeds", "pooled_prompt_embeds"] if pooled else ["prompt_embeds"]


def test_without_guidance_from_some_step_on_the_other_branch_goes_on(batched: Any) -> None:
    name, pipe = batched
    more = {"callback_on_step_end_tensor_inputs": inputs_of(name)}
    plain = call(name, pipe, callback_on_step_end=switch_off, **more)

    faded, _ = cached(name, pipe, callback_on_step_end=fade_out)
    drawn, log = cached(name, pipe, callback_on_step_end=switch_off, **more)
    with BlockRunner(pipe, AllCompute(), TieredCache()):
        computed = call(name, pipe, callback_on_step_end=switch_off, **more)

    assert torch.equal(computed, plain)
    assert modes(log) == list(MODES)
    torch.testing.assert_close(drawn, faded, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drawn, plain, rtol=1e-4, atol=1e-4)


def test_a_branch_that_starts_late_computes_first(batched: Any) -> None:
    name, pipe = batched
    given = PIPELINES[name].call(Draw([1]), PIPELINES[name].sides[0])

    def switch_on(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == AFTER:  # reuse is asked for at the next step
            pipe._guidance_scale = 5.0
            tensors = {n: torch.cat([given[f"negative_{n}"], t]) for n, t in tensors.items()}
        return tensors

    drawn, log = cached(
        name,
        pipe,
        guidance_scale=1.0,
        callback_on_step_end=switch_on,
        callback_on_step_end_tensor_inputs=inputs_of(name),
    )

    assert modes(log) == [0, 1, 0, Mode.COMPUTE, 1, 0]
    assert log.branches == 2
    assert drawn.isfinite().all()


def test_guidance_may_change_between_requests(batched: Any) -> None:
    name, pipe = batched
    scales = (5.0, 1.0, 2.0, 5.0)
    alone = [cached(name, pipe, guidance_scale=scale)[0] for scale in scales]

    with BlockRunner(pipe, PerRow([MODES]), TieredCache()):
        together = [call(name, pipe, guidance_scale=scale) for scale in scales]

    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(together[0], together[3])
    assert not torch.equal(together[0], together[2])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Lumina2Pipeline", {"cfg_trunc_ratio": 0.5}),
        ("ZImagePipeline", {"guidance_scale": 3.0, "cfg_truncation": 0.5}),
        (
            "StableDiffusion3Pipeline (skip-layer guidance)",
            {"skip_layer_guidance_start": 0.2, "skip_layer_guidance_stop": 0.6},
        ),
    ],
)
def test_guidance_may_hold_for_a_part_of_the_steps(name: str, part: dict[str, Any]) -> None:
    pipe = build(name)
    plain = call(name, pipe, **part)

    with BlockRunner(pipe, AllCompute(), TieredCache()):
        computed = call(name, pipe, **part)
    drawn, log = cached(name, pipe, **part)

    assert not torch.equal(plain, call(name, pipe))
    assert torch.equal(computed, plain)
    assert not torch.equal(drawn, plain)
    assert log.branches >= 2
    assert all(mode <= wish for mode, wish in zip(modes(log), MODES, strict=True))
    assert modes(log).count(Mode.REUSE) >= 2
