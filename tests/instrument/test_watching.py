"""What must be learned of a model is learned from the real call: watching has no effects."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from benchmarks.zoo.loop import DenoiserLoop
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, Controller, EasyCache, EveryK, FBCache, StaticSchedule
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.types import Mode
from tests.instrument.test_shapes import network

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers deprecates parts of its own models
STEPS = 6
MODES = np.array([0, 1, 0, 2, 0, 1], dtype=np.int8)[:, None]
#: Blocks of no class that a table knows, in one list, in two of different streams, and in a list
#: whose name is as unknown.
UNKNOWN = ["ZImageTransformer2DModel", "ChromaTransformer2DModel", "LuminaNextDiT2DModel"]


def blocks_of(loop: DenoiserLoop) -> list[nn.Module]:
    model: nn.Module = vars(loop)["transformer"]
    lists = [m for m in model.children() if isinstance(m, nn.ModuleList)]
    return [block for blocks in lists for block in blocks]


def first_of(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def with_first(output: Any, first: Any) -> Any:
    return (first, *output[1:]) if isinstance(output, tuple) else first


def noisy(block: nn.Module) -> None:
    """Have a block draw noise from the generator of everybody."""

    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        first = first_of(output)
        return with_first(output, first + 0.1 * torch.randn_like(first))

    block.register_forward_hook(hook)


def remembering(block: nn.Module) -> None:
    """Have a block add what it returned at its last call."""
    memory: list[Tensor] = []

    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        first = first_of(output)
        memory.append(first)
        before = memory[-2] if len(memory) > 1 and memory[-2].shape == first.shape else 0
        return with_first(output, first + 0.5 * before)

    block.register_forward_hook(hook)


def build(name: str, effect: Callable[[nn.Module], None] | None = None) -> DenoiserLoop:
    loop = DenoiserLoop(name)
    for block in blocks_of(loop) if effect else ():
        assert effect is not None
        effect(block)
    return loop


def draw(loop: DenoiserLoop, size: int = 8) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return loop(seeds=[1], size=size, num_inference_steps=STEPS)


CONTROLLERS: dict[str, tuple[Controller, str | None]] = {
    "nothing reused": (AllCompute(), None),
    "whole denoiser": (AllCompute(), "transformer"),
    "static schedule": (StaticSchedule.of(np.zeros((STEPS, 1), dtype=np.int8)), None),
    "FBCache": (FBCache(0.0), None),
    "EasyCache": (EasyCache(0.0), None),
    "network": (network(STEPS), None),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("effect", [noisy, remembering])
@pytest.mark.parametrize("kind", CONTROLLERS)
def test_the_first_request_is_bit_identical_when_everything_is_computed(
    name: str, effect: Callable[[nn.Module], None], kind: str
) -> None:
    plain = draw(build(name, effect))
    loop, (controller, blocks) = build(name, effect), CONTROLLERS[kind]

    with BlockRunner(loop, controller, TieredCache(), blocks=blocks) as runner:
        drawn = draw(loop)

    assert runner.layouts[0].ready
    assert torch.equal(drawn, plain)


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_first_request_runs_every_block_as_often_as_the_plain_pipeline(name: str) -> None:
    loop = DenoiserLoop(name)
    calls = [0]
    for block in blocks_of(loop):
        block.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    draw(loop)
    plain, calls[0] = calls[0], 0

    with BlockRunner(loop, AllCompute(), TieredCache()):
        draw(loop)

    assert calls[0] == plain


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize(
    "make",
    [lambda: EveryK(2), lambda: StaticSchedule.of(MODES), lambda: FBCache(1e6), lambda: network()],
)
def test_the_first_request_is_like_every_other(name: str, make: Callable[[], Controller]) -> None:
    loop, logs = DenoiserLoop(name), list[RequestLog]()

    with BlockRunner(loop, make(), TieredCache(), on_finish=logs.append):
        first, second = draw(loop), draw(loop)

    assert torch.equal(first, second)
    np.testing.assert_array_equal(logs[0].modes, logs[1].modes)
    for branch, modes in logs[1].by_branch.items():
        np.testing.assert_array_equal(logs[0].by_branch[branch], modes)
    assert (logs[0].modes > Mode.COMPUTE).any()


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_a_hook_calls_within_the_first_call_is_not_watched(name: str) -> None:
    loop, logs, inside = DenoiserLoop(name), list[RequestLog](), [False]
    with BlockRunner(loop, EveryK(2), TieredCache()):
        expected = draw(loop)

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not inside[0]:
            inside[0] = True
            module(*args, **kwargs)
            inside[0] = False

    vars(loop)["transformer"].register_forward_hook(hook, with_kwargs=True)
    with BlockRunner(loop, EveryK(2), TieredCache(), on_finish=logs.append):
        drawn = draw(loop)

    assert torch.equal(drawn, expected)
    assert logs[0].modes[:, 0, 0].tolist() == [0, 1] * 3


class Careless(nn.Module):
    """A denoiser that changes in place what its blocks have returned."""

    def __init__(self) -> None:
        super().__init__()
        self.my_blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor]:
        hidden_states = hidden_states + timestep
        for block in self.my_blocks:
            hidden_states = block(hidden_states)
            hidden_states += 1
        return (hidden_states,)


class Loop:
    """Denoises with it."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.transformer = Careless()
        self.scheduler = FlowMatchEulerDiscreteScheduler()
        self.device = torch.device("cpu")

    def __call__(self) -> Tensor:
        latents = torch.ones(1, 5, 4)
        self.scheduler.set_timesteps(STEPS)
        for t in self.scheduler.timesteps:
            noise = self.transformer(hidden_states=latents, timestep=t / 1000)[0]
            latents = self.scheduler.step(noise, t, latents, return_dict=False)[0]
        return latents


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_was_changed_in_place_meanwhile_is_computed_again_and_said(mode: Any) -> None:
    loop, logs = Loop(), list[RequestLog]()
    with mode():
        plain = loop()
        with BlockRunner(loop, AllCompute(), TieredCache()):
            assert torch.equal(loop(), plain)
        with BlockRunner(loop, EveryK(2), TieredCache(), on_finish=logs.append):
            first, second = loop(), loop()

    assert logs[0].modes[:, 0, 0].tolist() == [0, 0, 0, 1, 0, 1]
    assert logs[1].modes[:, 0, 0].tolist() == [0, 1, 0, 1, 0, 1]
    assert not torch.equal(first, second)
    assert not torch.equal(first, plain)
