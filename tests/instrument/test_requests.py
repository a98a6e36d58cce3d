import asyncio
import gc
from typing import Any

import pytest
import torch

from benchmarks.zoo.requests import cancel_identical, threads_identical
from ditcache_rl import session
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import EveryK
from ditcache_rl.errors import ConfigError, StateError, UnsupportedModelError
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.types import Mode
from tests.kit.pipelines import GUIDANCE, PROMPTS, STEPS, build_tiny_pipe, draw, draw_under


def test_requests_of_many_threads_are_drawn_as_alone(tiny_pipe: Any) -> None:
    count = threads_identical(
        tiny_pipe,
        lambda: BlockRunner(tiny_pipe, EveryK(2), TieredCache(), sites=2),
        threads=4,
        each=4,
    )

    assert count == 16


def test_tasks_do_not_share_state(tiny_pipe: Any) -> None:
    expected = [draw_under(tiny_pipe, EveryK(2), seeds=(seed,))[0] for seed in range(3)]

    async def serve() -> list[Any]:
        with BlockRunner(tiny_pipe, EveryK(2), TieredCache()):
            return await asyncio.gather(
                *(asyncio.to_thread(draw, session(tiny_pipe), seeds=(seed,)) for seed in range(3))
            )

    for drawn, alone in zip(asyncio.run(serve()), expected, strict=True):
        assert torch.equal(drawn, alone)


def test_a_session_outlives_the_runner_and_draws_plainly_then(tiny_pipe: Any) -> None:
    plain = draw(tiny_pipe)

    with BlockRunner(tiny_pipe, EveryK(2), TieredCache()):
        own = session(tiny_pipe)
        assert not torch.equal(draw(own), plain)

    assert own.scheduler is not tiny_pipe.scheduler
    assert own.transformer is tiny_pipe.transformer
    assert torch.equal(draw(own), plain)


def test_two_pipelines_of_one_transformer_may_have_runners_of_their_own(tiny_pipe: Any) -> None:
    plain, other = draw(tiny_pipe), session(tiny_pipe)
    half, _ = draw_under(tiny_pipe, EveryK(2))
    third, _ = draw_under(tiny_pipe, EveryK(3), sites=2)

    with BlockRunner(tiny_pipe, EveryK(2), TieredCache()):
        with BlockRunner(other, EveryK(3), TieredCache(), sites=2):
            assert torch.equal(draw(tiny_pipe), half)
            assert torch.equal(draw(other), third)
        assert torch.equal(draw(other), plain)
        assert torch.equal(draw(tiny_pipe), half)


def test_after_a_cancelled_request_another_size_is_drawn_as_ever(tiny_pipe: Any) -> None:
    assert cancel_identical(tiny_pipe, steps=4) == (4, 0)


def test_guidance_may_end_in_the_middle(tiny_pipe: Any) -> None:
    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            pipe._interrupt = True
        return tensors

    logs: list[RequestLog] = []
    cache = TieredCache()
    with BlockRunner(tiny_pipe, EveryK(2), cache, on_finish=logs.append):
        draw(tiny_pipe, callback_on_step_end=stop, **GUIDANCE)
        after = draw(tiny_pipe, **GUIDANCE)

    assert logs[0].modes[:, 0, 0].tolist() == [0, 1, 0, -1, -1, -1]
    assert torch.equal(after, draw_under(tiny_pipe, EveryK(2), **GUIDANCE)[0])
    assert cache.used_bytes == 0


def test_custom_sigmas_are_the_clock(tiny_pipe: Any) -> None:
    _, log = draw_under(tiny_pipe, EveryK(2), sigmas=[1.0, 0.7, 0.2], steps=3)

    assert log.run.num_inference_steps == 3
    assert log.modes[:, 0, 0].tolist() == [Mode.COMPUTE, Mode.REUSE, Mode.COMPUTE]


@pytest.mark.parametrize(("share", "cached"), [(100_000, True), (60_000, False)])
def test_a_request_over_budget_runs_uncached(tiny_pipe: Any, share: int, cached: bool) -> None:
    plain = draw(tiny_pipe, PROMPTS, seeds=(0, 1))
    cache = TieredCache(100_000)
    half: list[RequestLog] = []

    with BlockRunner(tiny_pipe, EveryK(2), cache, request_bytes=share, on_finish=half.append):
        drawn = draw(tiny_pipe, PROMPTS, seeds=(0, 1))  # an entry of two rows has 19456 bytes

    # Three entries, which a history may grow to, take 58368 bytes.
    assert half[0].peak_bytes <= share
    assert torch.equal(drawn, plain) is False
    with BlockRunner(tiny_pipe, EveryK(2), cache, request_bytes=20_000, on_finish=half.append):
        assert torch.equal(draw(tiny_pipe, PROMPTS, seeds=(0, 1)), plain)
    with BlockRunner(tiny_pipe, EveryK(2), cache, request_bytes=200_000, on_finish=half.append):
        assert torch.equal(draw(tiny_pipe, PROMPTS, seeds=(0, 1)), plain)
    assert half[-1].compute_share.tolist() == [1.0, 1.0]


def test_a_call_that_can_not_begin_takes_nobody_s_place(tiny_pipe: Any) -> None:
    half: list[RequestLog] = []
    cache = TieredCache(100_000)

    with BlockRunner(tiny_pipe, EveryK(2), cache, request_bytes=100_000, on_finish=half.append):
        with pytest.raises(ValueError, match="many"):
            tiny_pipe(PROMPTS[0], num_images_per_prompt="many")
        draw(tiny_pipe, PROMPTS, seeds=(0, 1))

    assert (half[-1].compute_share < 1).all()


def test_nothing_keeps_a_finished_request_alive(tiny_pipe: Any) -> None:
    from ditcache_rl.instrument import Request

    draw_under(tiny_pipe, EveryK(2), sites=2)
    gc.collect()

    assert not [thing for thing in gc.get_objects() if type(thing) is Request]


def test_gradient_checkpointing_is_refused() -> None:
    pipe = build_tiny_pipe()
    pipe.transformer.enable_gradient_checkpointing()

    with (
        pytest.raises(StateError, match="disable_gradient_checkpointing"),
        BlockRunner(pipe, EveryK(2), TieredCache()),
    ):
        pass
    pipe.transformer.disable_gradient_checkpointing()
    with BlockRunner(pipe, EveryK(2), TieredCache()):
        draw(pipe, steps=STEPS)


def test_a_transformer_compiled_as_a_whole_is_refused() -> None:
    pipe = build_tiny_pipe()
    pipe.transformer.compile()

    with (
        pytest.raises(UnsupportedModelError, match="compile_repeated_blocks"),
        BlockRunner(pipe, EveryK(2), TieredCache()),
    ):
        pass


def test_blocks_may_be_named(tiny_pipe: Any) -> None:
    named = "transformer.transformer_blocks, transformer.single_transformer_blocks"
    expected, _ = draw_under(tiny_pipe, EveryK(2))

    with BlockRunner(tiny_pipe, EveryK(2), TieredCache(), blocks=named):
        assert torch.equal(draw(tiny_pipe), expected)
    with pytest.raises(ConfigError, match=r"received 'nothing\.blocks'"):
        BlockRunner(tiny_pipe, EveryK(2), TieredCache(), blocks="nothing.blocks")
    with pytest.raises(UnsupportedModelError, match="it has transformer_blocks, single"):
        BlockRunner(tiny_pipe, EveryK(2), TieredCache(), blocks="transformer.norm_out")
