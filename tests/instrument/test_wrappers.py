"""A wrapper's signature says nothing: what it wraps, or one forward pass, tells instead."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ditcache_rl as dc
from benchmarks.zoo.denoisers import build
from benchmarks.zoo.loop import DenoiserLoop
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, Controller, EasyCache, EveryK, FBCache, StaticSchedule
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.signatures import parameters_of
from ditcache_rl.types import Mode
from tests.instrument.test_shapes import network
from tests.kit.environment import untrained_policy
from tests.kit.pipelines import CALL, GUIDANCE, build_tiny_pipe, draw, draw_under

pytestmark = pytest.mark.filterwarnings("ignore")


class Wrapper(nn.Module):
    """Takes anything and hands it on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class PastWrapper(Wrapper):
    """Calls `forward` itself, past whoever stands before the model."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.forward(*args, **kwargs)


class PositionalWrapper(Wrapper):
    """Hands arguments on by their places."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        names = parameters_of(self.inner)
        given = dict(zip(names, args, strict=False)) | kwargs
        known = [name for name in names if name in given]
        head = [given.pop(name) for name in known[:2]] if known[:2] == list(names[:2]) else []
        return self.inner(*head, **given)


class Decorated(Wrapper):
    """Has a `forward` that takes itself among anything else, as a decorator leaves it."""

    def forward(*given: Any, **kwargs: Any) -> Any:
        self, *args = given
        return self.inner(*args, **kwargs)


class HalfOpen(Wrapper):
    """Names some of its arguments."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inner(hidden_states, *args, **kwargs)


def peft(inner: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
        model: nn.Module = get_peft_model(inner, config)
    return model


def twice(inner: nn.Module) -> nn.Module:
    return Wrapper(PastWrapper(inner))


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Any:
    pipe = build_tiny_pipe()
    pipe.transformer = wrap(pipe.transformer)
    return pipe


#: The same model without its wrapper, as far as it is one.
WRAPS: list[Callable[[nn.Module], nn.Module]] = [
    Wrapper,
    PastWrapper,
    PositionalWrapper,
    HalfOpen,
    twice,
    peft,
]


def bare(wrap: Callable[[nn.Module], nn.Module]) -> Any:
    pipe = build_tiny_pipe()
    if wrap is peft:
        pipe.transformer = peft(pipe.transformer).get_base_model()  # type: ignore[operator]
    return pipe


CONTROLLERS: dict[str, tuple[Callable[[], Controller], dict[str, Any]]] = {
    "whole": (lambda: EveryK(2, order=1), {"blocks": "transformer"}),
    "whole, online": (lambda: EasyCache(1e6, start=0.0, end=1.0), {"blocks": "transformer"}),
    "static": (
        lambda: StaticSchedule.of(np.array([[0], [1], [0], [2], [0], [1]], dtype=np.int8)),
        {},
    ),
    "sites": (lambda: EveryK(3), {"sites": 3}),
    "FBCache": (lambda: FBCache(1e6), {}),
    "network": (lambda: network(), {}),
}


@pytest.mark.parametrize("call", [{}, GUIDANCE], ids=["alone", "guided"])
@pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize("kind", CONTROLLERS)
def test_a_wrapped_model_is_cached_as_the_model_itself(
    kind: str, wrap: Callable[[nn.Module], nn.Module], call: dict[str, Any]
) -> None:
    make, options = CONTROLLERS[kind]
    if kind == "network":
        call = {**call, "steps": 8}
    expected, plain_log = draw_under(bare(wrap), make(), **options, **call)

    latents, log = draw_under(wrapped(wrap), make(), **options, **call)

    assert torch.equal(latents, expected)
    np.testing.assert_array_equal(log.modes, plain_log.modes)
    assert (log.modes > Mode.COMPUTE).any()


@pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize("blocks", [None, "transformer"])
def test_computing_everything_is_bit_identical_and_nothing_stays(
    wrap: Callable[[nn.Module], nn.Module], blocks: str | None
) -> None:
    pipe = wrapped(wrap)
    plain = draw(pipe)
    before = [set(vars(module)) for module in pipe.transformer.modules()]

    latents, _ = draw_under(pipe, AllCompute(), blocks=blocks)

    assert torch.equal(latents, plain)
    assert [set(vars(module)) for module in pipe.transformer.modules()] == before
    assert torch.equal(draw(pipe), plain)


@pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: wrap.__name__)
def test_a_policy_serves_a_wrapped_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    pipe = wrapped(wrap)
    policy = untrained_policy(bare(wrap) if wrap is peft else wrapped(wrap), CALL)

    with dc.cached(pipe, policy) as run:
        draw(pipe)

    assert 0 < run.logs[0].compute_share[0] < 1
    assert "note" not in run.summary()


@pytest.mark.parametrize("name", ["ZImageTransformer2DModel", "LongCatImageTransformer2DModel"])
@pytest.mark.parametrize("blocks", [None, "transformer"])
def test_blocks_of_no_known_class_are_told_through_a_wrapper(name: str, blocks: str | None) -> None:
    def play(loop: DenoiserLoop) -> Tensor:
        with BlockRunner(loop, EveryK(2), TieredCache(), blocks=blocks):
            return loop(seeds=[0], size=8, num_inference_steps=4)

    loop: Any = DenoiserLoop(name)
    loop.transformer = Wrapper(loop.transformer)

    assert torch.equal(play(loop), play(DenoiserLoop(name)))


class Opaque(nn.Module):
    """A block that takes anything."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain, self.more = plain, nn.Identity()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)


@pytest.mark.parametrize("name", ["ZImageTransformer2DModel", "PRXTransformer2DModel"])
@pytest.mark.parametrize("rows", [1, 3])
def test_blocks_that_take_anything_are_told_by_a_forward_pass(name: str, rows: int) -> None:
    def play(loop: DenoiserLoop) -> tuple[Tensor, RequestLog]:
        logs = list[RequestLog]()
        tables = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 0], [2, 1, 1]], dtype=np.int8)[:, :rows]
        controller = StaticSchedule.of(tables[:, :, None])
        with BlockRunner(loop, controller, TieredCache(), on_finish=logs.append):
            latents = loop(seeds=list(range(rows)), size=8, num_inference_steps=4)
        return latents, logs[0]

    expected, plain_log = play(DenoiserLoop(name))
    loop: Any = DenoiserLoop(name)
    layers = next(
        child
        for key, child in loop.transformer.named_children()
        if isinstance(child, nn.ModuleList) and key in ("layers", "blocks")
    )
    for index, block in enumerate(layers):
        layers[index] = Opaque(block)

    latents, log = play(loop)

    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(log.modes, plain_log.modes)


def test_latents_in_a_list_are_computed_and_said() -> None:
    loop = DenoiserLoop("ZImageTransformer2DModel")
    plain = loop(seeds=[0, 1], size=8, num_inference_steps=4)

    with BlockRunner(loop, EveryK(2), TieredCache(), blocks="transformer") as runner:
        latents = loop(seeds=[0, 1], size=8, num_inference_steps=4)

    assert torch.equal(latents, plain)
    assert "in one sequence or list" in runner.notes[0]


def test_parameters_of_a_wrapper_are_those_of_what_it_wraps() -> None:
    model = build("FluxTransformer2DModel")

    assert parameters_of(Wrapper(model)) == parameters_of(model)
    assert parameters_of(Decorated(model)) == parameters_of(model)
    assert parameters_of(HalfOpen(model))[0] == "hidden_states"
    assert parameters_of(Opaque(model)) == ()
