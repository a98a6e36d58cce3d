import asyncio
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

import ditcache_rl as dc
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, EveryK
from ditcache_rl.inference import session
from ditcache_rl.instrument import BlockRunner, is_attached
from ditcache_rl.instrument.taps import taps_of
from tests.kit.pipelines import build_tiny_pipe, draw, draw_under


def traces(pipe: Any) -> list[str]:
    """List what of ours is on a pipeline: its class, its attributes, its taps."""
    found = [] if type(pipe) is FluxPipeline else [str(type(pipe))]
    found += [name for name in vars(pipe) if "ditcache" in name]
    return found + [name for name, m in pipe.transformer.named_modules() if taps_of(m)]


def under(pipe: Any, controller: Controller) -> BlockRunner:
    return BlockRunner(pipe, controller, TieredCache())


@pytest.fixture(scope="module")
def drawn(tiny_pipe: Any) -> dict[int, torch.Tensor]:
    """What is drawn under `EveryK(k)`, by k; 1 is plain."""
    alone = {k: draw_under(tiny_pipe, EveryK(k))[0] for k in (2, 3)}
    return alone | {1: draw(tiny_pipe)}


def pickled(pipe: Any) -> Any:
    return pickle.loads(pickle.dumps(pipe))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_is_plain_and_attached_by_itself(
    copied: Callable[[Any], Any], drawn: dict[int, torch.Tensor]
) -> None:
    pipe = build_tiny_pipe()
    pipe.itself = pipe
    runner = under(pipe, EveryK(2))
    runner.__enter__()

    other = copied(pipe)
    assert type(other) is FluxPipeline
    assert not is_attached(other)
    assert other.itself is (pipe if copied is copy.copy else other)
    assert torch.equal(draw(other), drawn[1])
    with under(other, EveryK(3)):
        assert torch.equal(draw(other), drawn[3])
        assert torch.equal(draw(pipe), drawn[2])
    assert torch.equal(draw(other), drawn[1])

    runner.__exit__(None, None, None)
    with under(other, EveryK(3)):
        assert torch.equal(draw(other), drawn[3])
        assert torch.equal(draw(pipe), drawn[1])
    assert traces(pipe) == traces(other) == []


def test_a_copy_in_the_middle_of_a_request_is_plain(drawn: dict[int, torch.Tensor]) -> None:
    pipe, found = build_tiny_pipe(), []

    def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        found.append(copy.deepcopy(pipe))
        return tensors

    with under(pipe, EveryK(2)):
        assert torch.equal(draw(pipe, callback_on_step_end=keep), drawn[2])

    assert traces(found[2]) == []
    assert torch.equal(draw(found[2]), drawn[1])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_of_a_tapped_module_is_plain(copied: Callable[[Any], Any]) -> None:
    pipe = build_tiny_pipe()

    with under(pipe, EveryK(2)):
        other = copied(pipe.transformer)

    assert not [name for name, module in other.named_modules() if taps_of(module)]


class Careful(FluxPipeline):  # type: ignore[misc]
    """A pipeline whose author says how it is copied."""

    def __copy__(self) -> Any:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.copied = "shallow"
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        other = copy.copy(self)
        other.transformer = copy.deepcopy(self.transformer, memo)
        other.copied = "deep"
        return other


@pytest.mark.parametrize(("copied", "how"), [(copy.copy, "shallow"), (copy.deepcopy, "deep")])
def test_an_authors_way_to_copy_is_used(copied: Callable[[Any], Any], how: str) -> None:
    pipe = build_tiny_pipe()
    pipe.__class__ = Careful

    with under(pipe, EveryK(2)):
        other = copied(pipe)

    assert type(other) is Careful
    assert other.copied == how
    assert not is_attached(other)


def by_reference(pipe: Any) -> Any:
    other = object.__new__(type(pipe))
    other.__dict__.update(pipe.__dict__)
    return other


def test_nothing_of_ours_is_taken_over_by_reference(drawn: dict[int, torch.Tensor]) -> None:
    pipe = build_tiny_pipe()
    with under(pipe, EveryK(2)):
        other = by_reference(pipe)
        assert torch.equal(draw(other), drawn[1])
        with under(other, EveryK(3)):
            assert torch.equal(draw(other), drawn[3])
            assert torch.equal(draw(pipe), drawn[2])
    assert traces(pipe) == traces(other) == []


def test_a_session_that_is_attached_is_attached_alone(drawn: dict[int, torch.Tensor]) -> None:
    pipe = build_tiny_pipe()
    with under(pipe, EveryK(2)):
        own = session(pipe)
        with under(own, EveryK(3)):
            assert torch.equal(draw(own), drawn[3])
            assert torch.equal(draw(pipe), drawn[2])
            assert torch.equal(draw(session(own)), drawn[3])
        assert torch.equal(draw(own), drawn[2])

    assert traces(pipe) == traces(own) == []
    with under(own, EveryK(3)):
        assert torch.equal(draw(own), drawn[3])
        assert torch.equal(draw(pipe), drawn[1])
    assert traces(pipe) == traces(own) == []


def test_a_session_stays_attached_by_itself_when_the_original_leaves(
    drawn: dict[int, torch.Tensor],
) -> None:
    pipe = build_tiny_pipe()
    original = under(pipe, EveryK(2))
    original.__enter__()
    own = session(pipe)
    with under(own, EveryK(3)):
        original.__exit__(None, None, None)
        assert traces(pipe) != [], "the blocks that both share are still tapped"
        assert torch.equal(draw(pipe), drawn[1])
        assert torch.equal(draw(own), drawn[3])
        with under(pipe, EveryK(2)):
            assert torch.equal(draw(own), drawn[3]), "was made before"
    assert traces(pipe) == traces(own) == []


def test_a_runner_keeps_no_session_alive(tiny_pipe: Any) -> None:
    with under(tiny_pipe, EveryK(2)):
        gone = weakref.ref(session(tiny_pipe))
        gc.collect()
        assert gone() is None


def test_a_call_that_has_begun_ends_as_it_began_though_the_runner_leaves(
    drawn: dict[int, torch.Tensor],
) -> None:
    pipe = build_tiny_pipe()
    runner = under(pipe, EveryK(2))

    def leave(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        runner.__exit__(None, None, None)
        return tensors

    with runner:
        draw(pipe, callback_on_step_end=leave)

    assert traces(pipe) == []
    assert torch.equal(draw(pipe), drawn[1])


@pytest.mark.parametrize("inside", [False, True])
def test_overlapping_tasks_are_served_by_what_they_attached(
    inside: bool, drawn: dict[int, torch.Tensor]
) -> None:
    pipe = build_tiny_pipe()

    async def serve(k: int, pauses: int) -> list[torch.Tensor]:
        found = []
        with dc.cached(pipe, EveryK(k)):
            for _ in range(pauses):
                found.append(await asyncio.to_thread(draw, pipe) if inside else draw(pipe))
                await asyncio.sleep(0)
        return found

    async def plainly() -> list[torch.Tensor]:
        await asyncio.sleep(0)
        return [draw(pipe)]

    async def all_of_them() -> list[list[torch.Tensor]]:
        if inside:  # calls of one pipeline must not overlap, only the blocks around them
            return [await serve(2, 1)]
        return [
            *await asyncio.gather(serve(2, 4), serve(3, 2), plainly(), serve(2, 1), serve(3, 3))
        ]

    for k, found in zip((2, 3, 1, 2, 3), asyncio.run(all_of_them()), strict=False):
        assert all(torch.equal(image, drawn[k]) for image in found)
    assert traces(pipe) == []


def test_overlapping_threads_are_served_by_what_they_attached(
    drawn: dict[int, torch.Tensor],
) -> None:
    pipe = build_tiny_pipe()
    turns = threading.Barrier(3, timeout=60)

    def work(k: int) -> list[bool]:
        same = []

        def take_turns() -> None:  # calls of one pipeline must not overlap
            for other in (1, 2, 3):
                turns.wait()
                if other == k:
                    same.append(torch.equal(draw(pipe), drawn[k]))
            turns.wait()

        if k == 1:
            take_turns()
        else:
            with dc.cached(pipe, EveryK(k)):
                take_turns()
        turns.wait()
        same.append(not is_attached(pipe))
        return same

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, (1, 2, 3))) == [[True, True]] * 3
    assert traces(pipe) == []


def test_attached_serves_all_threads_and_an_own_block_its_own(
    drawn: dict[int, torch.Tensor],
) -> None:
    pipe = build_tiny_pipe()

    def elsewhere(work: Callable[[], Any]) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    def blocked() -> torch.Tensor:
        with dc.cached(pipe, EveryK(3)):
            return draw(pipe)

    run = dc.attach(pipe, EveryK(2))
    assert torch.equal(elsewhere(lambda: draw(pipe)), drawn[2])
    assert torch.equal(elsewhere(blocked), drawn[3])
    late = elsewhere(lambda: dc.attach(pipe, EveryK(3)))
    assert torch.equal(draw(pipe), drawn[2]), "who attached is who is served"
    assert torch.equal(elsewhere(lambda: draw(pipe)), drawn[3]), "the last one serves the others"
    run.detach()
    assert torch.equal(draw(pipe), drawn[3])
    late.detach()
    assert traces(pipe) == []


@pytest.mark.parametrize("inner_first", [True, False])
def test_blocks_within_each_other_may_end_in_any_order(
    inner_first: bool, drawn: dict[int, torch.Tensor]
) -> None:
    pipe = build_tiny_pipe()
    outer, inner = dc.cached(pipe, EveryK(2)), dc.cached(pipe, EveryK(3))

    outer.__enter__()
    assert torch.equal(draw(pipe), drawn[2])
    inner.__enter__()
    assert torch.equal(draw(pipe), drawn[3])
    first, last, left = (inner, outer, 2) if inner_first else (outer, inner, 3)
    first.__exit__(None, None, None)
    assert torch.equal(draw(pipe), drawn[left])
    last.__exit__(None, None, None)

    assert traces(pipe) == []


def test_a_session_of_a_block_serves_any_thread_and_a_call_from_outside_is_said(
    drawn: dict[int, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = build_tiny_pipe()

    with dc.cached(pipe, EveryK(2)) as run, ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(draw, session(pipe)).result(), drawn[2])
        assert "dc.session" not in run.summary() + caplog.text
        assert torch.equal(pool.submit(draw, pipe).result(), drawn[1])
        assert torch.equal(pool.submit(lambda: draw(session(pipe))).result(), drawn[1])
        assert caplog.text.count("dc.session") == 1
        assert run.summary().count("calls or sessions from other tasks or threads") == 1
    assert traces(pipe) == []
