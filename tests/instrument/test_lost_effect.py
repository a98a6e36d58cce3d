"""Nothing that happens to a model after attaching takes the effect away without a word."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import ditcache_rl as dc
from benchmarks.zoo.loop import DenoiserLoop
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, EasyCache, EveryK, FBCache
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.inference import session
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.taps import taps_of
from tests.kit.environment import untrained_policy
from tests.kit.pipelines import BLOCKS, CALL, build_tiny_pipe, draw, draw_under

pytestmark = pytest.mark.filterwarnings("ignore")


def compile_blocks(pipe: Any) -> None:
    pipe.transformer.compile_repeated_blocks(backend="eager")


def compile_one_block(pipe: Any) -> None:
    pipe.transformer.single_transformer_blocks[-1].compile(backend="eager")


def other_transformer(pipe: Any) -> None:
    pipe.transformer = copy.deepcopy(build_tiny_pipe().transformer)
    with torch.no_grad():
        for parameter in pipe.transformer.parameters():
            parameter.mul_(1.01)


def other_blocks(pipe: Any) -> None:
    blocks = pipe.transformer.single_transformer_blocks
    pipe.transformer.single_transformer_blocks = nn.ModuleList(copy.deepcopy(build_blocks(blocks)))


def other_last_block(pipe: Any) -> None:
    pipe.transformer.single_transformer_blocks[-1] = build_blocks(
        build_tiny_pipe().transformer.single_transformer_blocks
    )[-1]


def build_blocks(blocks: Any) -> list[nn.Module]:
    return list(build_tiny_pipe().transformer.single_transformer_blocks)[: len(blocks)]


LOSSES = [compile_blocks, compile_one_block, other_transformer, other_blocks, other_last_block]
CONTROLLERS: dict[str, tuple[Callable[[], Controller], int, str | None]] = {
    "sites": (lambda: EveryK(2), BLOCKS, None),
    "forecast": (lambda: EveryK(3, order=1), 1, None),
    "whole": (lambda: EveryK(2), 1, "transformer"),
    "FBCache": (lambda: FBCache(1e6), 1, None),
    "EasyCache": (lambda: EasyCache(1e6, start=0.0, end=1.0), 1, None),
}


@cache
def lost(lose: Callable[[Any], None]) -> tuple[Any, torch.Tensor]:
    """Return a pipeline to which it has happened, and what it draws."""
    pipe = build_tiny_pipe()
    lose(pipe)
    return pipe, draw(pipe)


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("kind", CONTROLLERS)
def test_what_is_lost_is_tapped_again_at_the_next_request(
    kind: str, lose: Callable[[Any], None]
) -> None:
    (make, sites, blocks), logs = CONTROLLERS[kind], list[RequestLog]()
    fresh, plain = lost(lose)
    expected, log = draw_under(fresh, make(), sites=sites, blocks=blocks)
    pipe = build_tiny_pipe()
    options: dict[str, Any] = {"sites": sites, "blocks": blocks, "on_finish": logs.append}
    with BlockRunner(pipe, make(), TieredCache(), **options):
        draw(pipe)
        lose(pipe)
        drawn = draw(pipe)
        again = draw(pipe)

    assert torch.equal(drawn, expected)
    assert torch.equal(again, expected)
    assert (logs[1].modes == log.modes).all()
    assert (log.modes > 0).any()
    assert torch.equal(draw(pipe), plain)
    assert not any(taps_of(module) for module in pipe.transformer.modules())


@pytest.mark.parametrize("lose", [other_transformer, other_blocks])
def test_another_model_is_said_once(
    lose: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = build_tiny_pipe()

    with dc.cached(pipe, EveryK(2)) as run:
        lose(pipe)
        draw(pipe)
        draw(pipe)
        summary = run.summary()

    assert "note          pipe.transformer is another model than was attached" in summary
    assert caplog.text.count("another model than was attached") == 1


def test_another_model_is_said_under_a_policy_too() -> None:
    pipe = build_tiny_pipe()

    with dc.cached(pipe, untrained_policy(build_tiny_pipe(), CALL)) as run:
        other_transformer(pipe)
        draw(pipe)

    assert "what a policy promises was measured with that one" in run.summary()


def test_the_model_before_is_given_back_at_once() -> None:
    pipe = build_tiny_pipe()
    former = pipe.transformer

    with BlockRunner(pipe, EveryK(2), TieredCache()) as runner:
        draw(pipe)
        other_transformer(pipe)
        draw(pipe)
        assert not any(taps_of(module) for module in former.modules())
        assert [layout.denoiser for layout in runner.layouts] == [pipe.transformer]
        pipe.transformer = former
        draw(pipe)
        assert taps_of(former)


def test_a_model_that_cannot_be_cached_computes_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipe, fewer = build_tiny_pipe(), build_tiny_pipe()
    fewer.transformer.single_transformer_blocks = fewer.transformer.single_transformer_blocks[:1]
    plain = draw(fewer)

    with dc.cached(pipe, EveryK(2), sites=BLOCKS) as run:
        pipe.transformer = fewer.transformer
        assert torch.equal(draw(pipe), plain)
        assert torch.equal(draw(pipe), plain)
        summary = run.summary()

    assert "pipe.transformer can't be cached any more, and computes everything" in summary
    assert caplog.text.count("can't be cached any more") == 1


def test_a_model_compiled_as_a_whole_is_refused_with_the_remedy_as_when_attaching() -> None:
    pipe = build_tiny_pipe()
    with dc.cached(pipe, EveryK(2)) as run:
        former = pipe.transformer
        pipe.transformer = torch.compile(former, backend="eager")
        with pytest.raises(UnsupportedModelError, match="compile_repeated_blocks"):
            draw(pipe)
        pipe.transformer = former
        draw(pipe)

    assert run.logs[0].compute_share == [0.5]


def test_blocks_that_are_compiled_in_a_callback_go_on_at_the_next_step() -> None:
    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            compile_blocks(pipe)
        return tensors

    _, log = draw_under(build_tiny_pipe(), EveryK(2), callback_on_step_end=callback)

    assert log.modes[:, 0, 0].tolist() == [0, 1, 0, 1, 0, 1]


def test_a_denoiser_that_is_called_past_its_taps_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop: Any = DenoiserLoop("FluxTransformer2DModel")
    plain = loop(seeds=[0], size=8, num_inference_steps=4)
    transformer = loop.transformer

    class Past(DenoiserLoop):
        """Calls `forward` itself."""

        def __call__(self, **call: Any) -> Any:
            self.transformer, kept = transformer.forward, self.transformer
            try:
                return super().__call__(**call)
            finally:
                self.transformer = kept

    loop.__class__ = Past
    with BlockRunner(loop, EveryK(2), TieredCache()) as runner:
        for _ in range(2):
            loop(seeds=[0], size=8, num_inference_steps=4)

    assert len(runner.notes) == 1
    assert caplog.text.count("no block of the pipeline asked for a decision") == 1
    assert plain.shape


def test_requests_of_sessions_with_models_of_their_own_go_on_side_by_side() -> None:
    pipe, other = build_tiny_pipe(), build_tiny_pipe()
    other_transformer(other)
    own = session(pipe)
    own.transformer = other.transformer
    expected = [draw_under(it, EveryK(2))[0] for it in (build_tiny_pipe(), other)]
    logs = list[RequestLog]()

    with BlockRunner(pipe, EveryK(2), TieredCache(), on_finish=logs.append):
        sessions = [session(pipe) for _ in range(9)]
        for index, it in enumerate(sessions):
            it.transformer = own.transformer if index % 3 else pipe.transformer
        with ThreadPoolExecutor(3) as pool:
            drawn = list(pool.map(draw, sessions))

    for index, latents in enumerate(drawn):
        assert torch.equal(latents, expected[index % 3 > 0])
    assert all(log.compute_share == [0.5] for log in logs)


def test_nothing_is_said_where_nothing_was_lost() -> None:
    pipe = build_tiny_pipe()

    with BlockRunner(pipe, EveryK(2), TieredCache()) as runner:
        draw(pipe)
        draw(session(pipe))

    assert runner.notes == []
