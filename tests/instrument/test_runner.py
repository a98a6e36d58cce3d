import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, Controller, EveryK, FBCache, StaticSchedule
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.extras.gan import LatentWalk
from ditcache_rl.inference import session
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo
from tests.kit.pipelines import GUIDANCE, PROMPTS, STEPS, build_tiny_pipe, draw, draw_under


class Interrupted(Exception):
    """Comes from outside of the package in the middle of a call."""


class Untouchable:
    """A controller that must not be asked."""

    probe_blocks = 0

    def reset(self, run: RunInfo) -> None:
        raise AssertionError("no request should have begun")

    def decide(self, info: StepInfo) -> Decision:
        raise AssertionError("no request should have begun")


def fingerprint(pipe: Any) -> list[tuple[Any, ...]]:
    """Note the class of a pipeline and every attribute and forward of its modules."""
    modules = [
        (name, type(module), tuple(vars(module)), vars(module).get("forward"))
        for name, module in pipe.transformer.named_modules()
    ]
    return [("pipe", type(pipe), tuple(vars(pipe)), None), *modules]


@pytest.mark.parametrize("call", [{}, {"prompts": PROMPTS, "seeds": (0, 1)}, GUIDANCE])
@pytest.mark.parametrize(
    ("controller", "sites"),
    [
        *((AllCompute(), sites) for sites in range(1, 6)),
        *((EveryK(1), sites) for sites in (1, 3)),
        *((FBCache(0.0), sites) for sites in range(1, 5)),
    ],
)
def test_computing_everything_is_bit_identical_to_the_plain_pipeline(
    tiny_pipe: Any, controller: Controller, sites: int, call: dict[str, Any]
) -> None:
    plain = draw(tiny_pipe, **call)

    latents, log = draw_under(tiny_pipe, controller, sites=sites, **call)

    assert torch.equal(latents, plain)
    assert (log.modes == Mode.COMPUTE).all()
    assert log.modes.shape == (STEPS, len(call.get("seeds", (0,))), sites)


def test_nothing_of_the_runner_stays_on_the_pipeline(tiny_pipe: Any) -> None:
    plain = draw(tiny_pipe)
    before = fingerprint(tiny_pipe)

    with BlockRunner(tiny_pipe, EveryK(2), TieredCache(), sites=3):
        assert fingerprint(tiny_pipe) != before
        cached = draw(tiny_pipe)

    assert fingerprint(tiny_pipe) == before
    assert not torch.equal(cached, plain)
    assert torch.equal(draw(tiny_pipe), plain)


def test_leaving_twice_is_harmless_and_a_runner_can_be_entered_again(tiny_pipe: Any) -> None:
    before = fingerprint(tiny_pipe)
    runner = BlockRunner(tiny_pipe, EveryK(2), TieredCache())

    drawn = []
    for _ in range(2):
        with runner:
            drawn.append(draw(tiny_pipe))
        runner.__exit__(None, None, None)

    assert torch.equal(*drawn)
    assert fingerprint(tiny_pipe) == before


def looks(pipe: Any) -> list[Any]:
    """Note what programs read of a pipeline to learn how it is called."""
    kind, call = type(pipe), pipe.__call__
    return [
        *(getattr(kind, name) for name in ("__name__", "__qualname__", "__module__", "__doc__")),
        *(getattr(call, name) for name in ("__name__", "__qualname__", "__module__", "__doc__")),
        *(inspect.signature(called) for called in (call, pipe, kind.__call__)),
        (call.__annotations__, get_type_hints(call), inspect.getdoc(call)),
        [inspect.signature(part.forward) for part in (getattr(pipe, "transformer", None),) if part],
    ]


class Renamed(FluxPipeline):  # type: ignore[misc]
    """A pipeline whose call is its author's own, undecorated and without a docstring."""

    def __call__(self, prompt: str, /, *, steps: int = 4, **more: Any) -> Any:
        return super().__call__(prompt, num_inference_steps=steps, **more)


def renamed() -> Any:
    pipe = build_tiny_pipe()
    pipe.__class__ = Renamed
    return pipe


def walk() -> Any:
    synthesis = nn.Module()
    synthesis.blocks = nn.ModuleList([nn.Identity()])
    return LatentWalk(synthesis)


@pytest.mark.parametrize("make", [build_tiny_pipe, renamed, walk])
def test_an_attached_pipeline_still_looks_like_what_it_is(make: Callable[[], Any]) -> None:
    pipe = make()
    kind, before = type(pipe), looks(pipe)

    with BlockRunner(pipe, AllCompute(), TieredCache()):
        assert isinstance(pipe, kind)
        assert looks(pipe) == before
        with BlockRunner(pipe, EveryK(2), TieredCache()):
            assert looks(pipe) == before


def test_hooks_that_others_have_put_on_a_block_work_during_and_after() -> None:
    class Counting(ModelHook):  # type: ignore[misc]
        calls = 0

        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return args, kwargs

    pipe, hook = build_tiny_pipe(), Counting()
    for module in (pipe.transformer, pipe.transformer.transformer_blocks[0]):
        HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, "counting")
    draw(pipe)
    before = fingerprint(pipe)
    assert hook.calls == 2 * STEPS

    draw_under(pipe, EveryK(2))
    assert hook.calls == 2 * STEPS + STEPS + STEPS // 2, "only what computes passes the hook"

    assert fingerprint(pipe) == before
    draw(pipe)
    assert hook.calls == 2 * STEPS + STEPS + STEPS // 2 + 2 * STEPS


@pytest.mark.parametrize("step", range(4))
def test_an_exception_between_steps_leaves_nothing_behind(tiny_pipe: Any, step: int) -> None:
    def interrupt(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index == step:
            raise Interrupted
        return tensors

    plain, (fresh, _) = draw(tiny_pipe), draw_under(tiny_pipe, EveryK(2), sites=2)
    before, cache = fingerprint(tiny_pipe), TieredCache()

    with BlockRunner(tiny_pipe, EveryK(2), cache, sites=2):
        with pytest.raises(Interrupted):
            draw(tiny_pipe, callback_on_step_end=interrupt)
        assert cache.used_bytes == 0
        assert torch.equal(draw(tiny_pipe), fresh), "the next call of the attached pipeline"
    with (
        pytest.raises(Interrupted),
        BlockRunner(tiny_pipe, EveryK(2), cache, sites=2),
    ):
        draw(tiny_pipe, callback_on_step_end=interrupt)

    assert fingerprint(tiny_pipe) == before
    assert cache.used_bytes == 0
    assert torch.equal(draw(tiny_pipe), plain)


@pytest.mark.parametrize("kind", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("block", [0, 2, 4])
def test_an_exception_inside_of_a_block_leaves_nothing_behind(
    tiny_pipe: Any, block: int, kind: type[BaseException]
) -> None:
    transformer = tiny_pipe.transformer
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    plain, (fresh, _) = draw(tiny_pipe), draw_under(tiny_pipe, EveryK(2), sites=2)
    before, cache, calls = fingerprint(tiny_pipe), TieredCache(), [0]
    logs: list[RequestLog] = []

    def interrupt(module: nn.Module, args: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:  # at step 2, as step 1 reuses
            raise kind

    with BlockRunner(tiny_pipe, EveryK(2), cache, sites=2, on_finish=logs.append):
        handle = blocks[block].attn.register_forward_pre_hook(interrupt)
        with pytest.raises(kind):
            draw(tiny_pipe)
        handle.remove()
        assert cache.used_bytes == 0
        assert torch.equal(draw(tiny_pipe), fresh)

    assert fingerprint(tiny_pipe) == before
    assert torch.equal(draw(tiny_pipe), plain)
    assert [log.modes[-1, 0, 0] for log in logs] == [-1, Mode.REUSE], "also a failed call is logged"


@pytest.mark.parametrize("inner_first", [True, False])
def test_of_two_runners_the_later_rules_and_they_leave_in_any_order(
    tiny_pipe: Any, inner_first: bool
) -> None:
    plain = draw(tiny_pipe)
    half, _ = draw_under(tiny_pipe, EveryK(2))
    third, _ = draw_under(tiny_pipe, EveryK(3), sites=2)
    before = fingerprint(tiny_pipe)
    outer = BlockRunner(tiny_pipe, EveryK(2), TieredCache())
    inner = BlockRunner(tiny_pipe, EveryK(3), TieredCache(), sites=2)

    with outer:
        assert torch.equal(draw(tiny_pipe), half)
        with inner:
            assert torch.equal(draw(tiny_pipe), third)
        assert torch.equal(draw(tiny_pipe), half)
        inner.__enter__()
        first, last = (inner, outer) if inner_first else (outer, inner)
        first.__exit__(None, None, None)
        assert torch.equal(draw(tiny_pipe), half if inner_first else third)
        last.__exit__(None, None, None)

    assert fingerprint(tiny_pipe) == before
    assert torch.equal(draw(tiny_pipe), plain)


def test_a_transformer_that_is_called_outside_of_a_request_computes_plainly(tiny_pipe: Any) -> None:
    calls: list[tuple[dict[str, Any], torch.Tensor]] = []

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append((kwargs, output[0]))

    handle = tiny_pipe.transformer.register_forward_hook(keep, with_kwargs=True)
    draw(tiny_pipe, steps=2)
    handle.remove()

    with BlockRunner(tiny_pipe, Untouchable(), TieredCache(), sites=2), torch.no_grad():
        for kwargs, expected in calls:
            assert torch.equal(tiny_pipe.transformer(**kwargs)[0], expected)


def test_two_pipelines_of_one_class_do_not_know_of_each_other(tiny_pipe: Any) -> None:
    other = build_tiny_pipe()
    plain, (cached, _) = draw(tiny_pipe), draw_under(tiny_pipe, EveryK(3))

    with BlockRunner(tiny_pipe, EveryK(3), TieredCache()):
        assert type(other) is FluxPipeline
        assert torch.equal(draw(other), plain)
        with BlockRunner(other, EveryK(3), TieredCache()):
            pass
        assert torch.equal(draw(tiny_pipe), cached)
        assert torch.equal(draw(other), plain)


def test_threads_that_share_an_attached_transformer_do_not_share_state(tiny_pipe: Any) -> None:
    class ByRow:
        """Follows the schedule of the thread's prompt, which its sigma count tells."""

        probe_blocks = 0

        def reset(self, run: RunInfo) -> None:
            self._every = EveryK(run.num_inference_steps - 4, order=1)

        def decide(self, info: StepInfo) -> Decision:
            return self._every.decide(info)

    # Different step counts give different schedules, and requests that overlap in any order.
    calls: list[dict[str, Any]] = [
        {"prompts": PROMPTS[index % 2], "seeds": (index,), "steps": 6 + index} for index in range(4)
    ]
    calls[3] |= GUIDANCE
    expected = [draw_under(tiny_pipe, ByRow(), sites=2, **call)[0] for call in calls]
    cache = TieredCache()

    def work(call: dict[str, Any]) -> list[torch.Tensor]:
        # Schedulers of diffusers keep their position in themselves, so every thread has its own.
        mine = session(tiny_pipe)
        return [draw(mine, **call) for _ in range(3)]

    with (
        BlockRunner(tiny_pipe, ByRow(), cache, sites=2),
        ThreadPoolExecutor(len(calls)) as pool,
    ):
        drawn = list(pool.map(work, calls))

    for mine, alone in zip(drawn, expected, strict=True):
        assert all(torch.equal(latents, alone) for latents in mine)
    assert cache.used_bytes == 0
    assert cache.stats.puts > 0


def test_each_call_is_a_request_with_a_log_of_its_own(tiny_pipe: Any) -> None:
    logs: list[RequestLog] = []

    with BlockRunner(tiny_pipe, EveryK(2), TieredCache(), on_finish=logs.append):
        draw(tiny_pipe)
        draw(tiny_pipe, PROMPTS, seeds=(0, 1), steps=4)

    assert [log.modes.shape for log in logs] == [(STEPS, 1, 1), (4, 2, 1)]
    assert all(log.seconds > 0 and log.peak_bytes > 0 for log in logs)


def test_a_pipeline_without_transformer_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="received SimplePipeline"):
        BlockRunner(type("SimplePipeline", (), {})(), AllCompute(), TieredCache())


@pytest.mark.parametrize(("controller", "sites"), [(AllCompute(), 6), (FBCache(0.1), 5)])
def test_more_sites_than_blocks_are_refused_before_anything_is_touched(
    tiny_pipe: Any, controller: Controller, sites: int
) -> None:
    before = fingerprint(tiny_pipe)

    with pytest.raises(ConfigError, match=f"received {sites}"):
        BlockRunner(tiny_pipe, controller, TieredCache(), sites=sites)

    assert fingerprint(tiny_pipe) == before


def test_a_schedule_for_another_request_is_an_error_of_the_call(tiny_pipe: Any) -> None:
    schedule = StaticSchedule.of(np.zeros((STEPS + 1, 1), dtype=np.int8))
    before = fingerprint(tiny_pipe)

    with pytest.raises(ConfigError, match="expected a request with"):
        draw_under(tiny_pipe, schedule)

    assert fingerprint(tiny_pipe) == before


def test_a_request_gives_its_place_back_though_the_look_after_it_fails(
    tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BlockRunner(tiny_pipe, EveryK(2), TieredCache(), sites=2) as runner:
        looks = iter([None])

        def changes() -> None:
            if next(looks, "after") is not None:
                raise RuntimeError("no look")

        monkeypatch.setattr(runner._denoisers, "changes", changes)
        with pytest.raises(RuntimeError, match="no look"):
            draw(tiny_pipe, PROMPTS, steps=2)

        assert runner._active == 0
