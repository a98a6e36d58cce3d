"""What a pipeline was given to call is no part of its request, whatever it runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor, nn

from ditcache_rl import attach, session
from ditcache_rl.instrument.context import current_request, visiting
from tests.instrument.test_passages import CONTROLLERS, PLACED, WHERE, look
from tests.kit.pipelines import GUIDANCE, PROMPTS, STEPS, build_tiny_pipe, draw, draw_under


@pytest.fixture(scope="module")
def other(tiny_pipe: Any) -> Any:
    """Another pipeline on the same transformer, with a scheduler of its own."""
    parts = {**tiny_pipe.components, "scheduler": session(tiny_pipe).scheduler}
    pipe = FluxPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def previewing(other: Any, seen: list[Tensor]) -> Callable[..., dict[str, Any]]:
    def preview(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        assert current_request() is None
        if step in (1, 3):
            seen.append(draw(other, PROMPTS[1], seeds=(step,), steps=4))
        return tensors

    return preview


def calling(transformer: Any, seen: list[Tensor]) -> Callable[..., dict[str, Any]]:
    def call(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = torch.full((1, 64, transformer.config.in_channels), float(step))
        with torch.no_grad():
            seen.append(look(transformer, latents, timestep))
        return tensors

    return call


@pytest.mark.parametrize(
    ("name", "where", "guided"),
    [*(("every 3", where, False) for where in WHERE), *((*placed, True) for placed in PLACED)],
)
def test_a_callback_runs_plainly_and_leaves_the_request_as_it_was(
    name: str, where: str, guided: bool, tiny_pipe: Any, other: Any
) -> None:
    call = GUIDANCE if guided else {}
    for make, given in ((previewing, other), (calling, tiny_pipe.transformer)):
        expected: list[Tensor] = []
        draw(tiny_pipe, callback_on_step_end=make(given, expected), **call)
        alone, log = draw_under(tiny_pipe, CONTROLLERS[name](), **WHERE[where], **call)

        seen: list[Tensor] = []
        drawn, heard = draw_under(
            tiny_pipe,
            CONTROLLERS[name](),
            callback_on_step_end=make(given, seen),
            **WHERE[where],
            **call,
        )

        assert torch.equal(drawn, alone)
        assert heard.modes.tolist() == log.modes.tolist()
        assert all(map(torch.equal, seen, expected))


def test_a_call_of_an_attached_pipeline_in_a_callback_is_a_request_of_its_own(
    tiny_pipe: Any,
) -> None:
    controller = CONTROLLERS["every 3"]
    alone, _ = draw_under(tiny_pipe, controller())
    own, _ = draw_under(tiny_pipe, controller(), prompts=PROMPTS[1], seeds=(1,), steps=4)
    run = attach(tiny_pipe, controller())
    nested = session(tiny_pipe)
    seen: list[Tensor] = []
    try:
        drawn = draw(tiny_pipe, callback_on_step_end=previewing(nested, seen))
    finally:
        run.detach()

    assert torch.equal(drawn, alone)
    assert torch.equal(seen[0], own)
    assert [len(log.modes) for log in run.logs] == [4, 4, STEPS]
    assert run.cache.used_bytes == 0


def test_a_hook_that_calls_a_denoiser_within_its_call_is_no_part_of_it() -> None:
    pipe, seen = build_tiny_pipe(), list[Tensor]()
    alone, log = draw_under(pipe, CONTROLLERS["greedy"](), **GUIDANCE)
    inside = [False]

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not inside[0]:
            inside[0] = True
            seen.append(look(module, kwargs["hidden_states"] + 1))
            inside[0] = False

    pipe.transformer.register_forward_hook(hook, with_kwargs=True)
    draw(pipe, **GUIDANCE)
    expected, seen[:] = list(seen), []

    drawn, heard = draw_under(pipe, CONTROLLERS["greedy"](), **GUIDANCE)

    assert torch.equal(drawn, alone)
    assert heard.modes.tolist() == log.modes.tolist()
    assert len(seen) == len(expected)


class Cutoff(PipelineCallback):  # type: ignore[misc]
    tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds"]

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        assert current_request() is None
        self.heard = sorted(callback_kwargs)
        return callback_kwargs


@pytest.mark.parametrize("many", [False, True])
def test_what_pipelines_look_at_in_a_callback_is_there(many: bool, tiny_pipe: Any) -> None:
    mine = Cutoff()
    callback = MultiPipelineCallbacks([mine]) if many else mine

    alone, _ = draw_under(tiny_pipe, CONTROLLERS["every 3"]())
    drawn, _ = draw_under(
        tiny_pipe,
        CONTROLLERS["every 3"](),
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=callback.tensor_inputs,
    )

    assert torch.equal(drawn, alone)
    assert mine.heard == sorted(Cutoff.tensor_inputs)
    stand_in: Any = visiting(callback)
    assert isinstance(stand_in, type(callback))
    assert stand_in.tensor_inputs == Cutoff.tensor_inputs


class Callback:
    def method(self, pipe: Any, step: int) -> int:
        return step

    def __call__(self, pipe: Any, step: int) -> int:
        return step


def function(pipe: Any, step: int) -> int:
    """Return the step."""
    return step


@pytest.mark.parametrize(
    "callback",
    [function, lambda pipe, step: step, Callback(), Callback().method, functools.partial(function)],
    ids=["function", "lambda", "object", "method", "partial"],
)
def test_a_visitor_looks_like_what_it_stands_for(callback: Any) -> None:
    stand_in = visiting(callback)

    assert stand_in is not callback
    assert isinstance(stand_in, type(callback))
    assert inspect.signature(stand_in) == inspect.signature(callback)
    assert getattr(stand_in, "__name__", None) == getattr(callback, "__name__", None)
    assert stand_in("pipe", 3) == 3


def test_what_is_no_callback_is_handed_on_as_it_is(tiny_pipe: Any) -> None:
    given = [
        *("a prompt", 3, None, torch.zeros(1), torch.Generator(), [function], nn.Linear(1, 1)),
        *(Callback, tiny_pipe.tokenizer, tiny_pipe.transformer, torch.float32),
    ]

    assert all(visiting(value) is value for value in given)
