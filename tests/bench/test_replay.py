from typing import Any, cast

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.bench.loop import LoopNotes, hand_on
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute
from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.taps import taps_of
from tests.kit.boards import ZooBoard
from tests.kit.pipelines import BLOCKS, GUIDANCE, PROMPTS, assert_close, draw

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


@pytest.fixture
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, 4, sites=1, call=tiny_call)


def test_computing_every_step_is_the_pipeline_itself(board: Board) -> None:
    expected = draw(board.pipe, PROMPTS, seeds=(0, 1), steps=4)

    with Replay(board, CASES) as replay, torch.no_grad():
        latents = replay.start()
        for step in range(4):
            output, residual = replay.compute(step, latents)
            assert replay.estimate(step, latents, residual).shape == output.shape
            latents = replay.advance(step, output, latents)

    torch.testing.assert_close(latents, expected, rtol=0, atol=0)


def test_the_pipeline_is_left_as_it_was_also_after_an_exception(board: Board) -> None:
    blocks = [*board.pipe.transformer.transformer_blocks]
    blocks += board.pipe.transformer.single_transformer_blocks
    assert len(blocks) == BLOCKS

    def fail() -> None:
        with Replay(board, CASES[:1]):
            assert all(taps_of(block) for block in blocks)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(taps_of(block) for block in blocks)


def test_a_hand_that_cannot_be_put_on_leaves_the_scheduler(board: Board) -> None:
    before, nothing = board.pipe.scheduler, cast(nn.Module, None)

    with pytest.raises(AttributeError), hand_on(board.pipe, nothing, LoopNotes()):
        pass

    assert board.pipe.scheduler is before


def test_an_attached_pipeline_is_not_replayed(board: Board) -> None:
    with (
        BlockRunner(board.pipe, AllCompute(), TieredCache()),
        pytest.raises(StateError, match="attached"),
    ):
        Replay(board, CASES[:1])


#: One doubled batch, one with latents by position and a sampler that keeps a share of them, two
#: calls a step, two calls whose sum is rescaled, and a list of rows whose sum is rescaled.
GUIDED: dict[str, tuple[bool, dict[str, Any]]] = {
    "StableDiffusion3Pipeline": (True, {}),
    "PixArtSigmaPipeline": (True, {}),
    "WanPipeline": (True, {}),
    "QwenImagePipeline": (False, {}),
    "ZImagePipeline": (False, {"guidance_scale": 5.0, "cfg_normalization": 0.5}),
}


@pytest.mark.parametrize("name", GUIDED)
def test_every_step_is_that_of_the_pipeline_however_it_guides(name: str) -> None:
    linear, call = GUIDED[name]
    board = ZooBoard(name, 4, **call)
    expected = board.draw(CASES).images

    with Replay(board, CASES) as replay, torch.no_grad():
        assert replay.linear == linear
        latents = replay.start()
        for step in range(4):
            output, cached = replay.compute(step, latents)
            again = replay.estimate(step, latents, cached)
            torch.testing.assert_close(again, output, rtol=0, atol=0)
            if step == 2:  # what is cached of a row belongs to that row
                _, own = replay.compute(step, latents.flip(0), cases=CASES[::-1])
                assert_close(own, cached.flip(0))
            latents = replay.advance(step, output, latents)

    torch.testing.assert_close(latents, replay.recorded()[-1], rtol=0, atol=0)
    if latents.shape == expected.shape:  # others bring them into another form at the end
        torch.testing.assert_close(latents, expected, rtol=0, atol=0)


# The blocks of Z-Image aren't known by name.
@pytest.mark.parametrize("name", [name for name in GUIDED if name != "ZImagePipeline"])
def test_what_the_block_stack_added_stands_in_for_it(name: str) -> None:
    board = ZooBoard(name, 3, stack=True, **GUIDED[name][1])

    with Replay(board, CASES) as replay, torch.no_grad():
        latents = replay.start()
        for step in range(3):
            output, added = replay.compute(step, latents)
            assert_close(replay.estimate(step, latents, added), output)
            latents = replay.advance(step, output, latents)

    torch.testing.assert_close(latents, replay.recorded()[-1], rtol=0, atol=0)


@pytest.mark.parametrize("blocks", [None, "transformer"])
def test_two_guidance_branches_are_replayed(
    tiny_pipe: Any, tiny_call: dict[str, Any], blocks: str | None
) -> None:
    board = Board(tiny_pipe, 3, sites=1, call=tiny_call | GUIDANCE, blocks=blocks)
    seeds = tuple(case.seed for case in CASES)
    negative = {"negative_prompt": [PROMPTS[1]] * 2}
    expected = draw(tiny_pipe, PROMPTS, seeds=seeds, steps=3, **{**GUIDANCE, **negative})

    with Replay(board, CASES) as replay, torch.no_grad():
        latents = replay.start()
        for step in range(3):
            output, cached = replay.compute(step, latents)
            again = replay.estimate(step, latents, cached)
            assert_close(again, output)
            latents = replay.advance(step, output, latents)

    torch.testing.assert_close(latents, expected, rtol=0, atol=0)


def test_rows_of_one_case_are_drawn_with_its_conditioning(board: Board) -> None:
    with Replay(board, CASES) as replay, torch.no_grad():
        latents = replay.recorded()[2]
        both, _ = replay.compute(2, latents)
        rows = [1, 1, 0]
        cases = [CASES[row] for row in rows]
        output, _ = replay.compute(2, latents[rows], cases=cases)
        assert_close(output, both[rows])
    with Replay(board, CASES[:1]) as other, torch.no_grad():  # whoever was recorded
        output, _ = other.compute(2, latents[rows], cases=cases)
        assert_close(output, both[rows])


def test_a_run_begins_with_its_own_latents(board: Board) -> None:
    replay = Replay(board, CASES)

    with pytest.raises(StateError, match=r"begin with start\(\)"):
        replay.compute(0, replay.start() + 1)
    assert type(board.pipe.scheduler) is FlowMatchEulerDiscreteScheduler
    assert not taps_of(board.pipe.transformer)


def test_guidance_of_some_steps_only_is_refused() -> None:
    board = ZooBoard("Lumina2Pipeline", 4, cfg_trunc_ratio=0.5)

    with pytest.raises(UnsupportedModelError, match="same calls of the denoiser at every step"):
        Replay(board, CASES)


@pytest.mark.parametrize("blocks", [None, "transformer"])
def test_an_estimate_does_not_depend_on_what_was_computed_last(
    tiny_pipe: Any, tiny_call: dict[str, Any], blocks: str | None
) -> None:
    call = tiny_call | GUIDANCE
    board = Board(tiny_pipe, 3, sites=1, call=call, blocks=blocks)
    with Replay(board, CASES) as replay, torch.no_grad():
        latents = replay.recorded()[1]
        expected, cached = replay.compute(1, latents)
        replay.compute(2, latents[:1], cases=CASES[1:])
        assert_close(replay.estimate(1, latents, cached), expected)
    with Replay(board, CASES) as fresh, torch.no_grad():  # where nothing was computed yet
        assert_close(fresh.estimate(1, latents, cached), expected)


def test_a_call_that_is_left_frees_what_was_loaded_for_it(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[bool] = []
    monkeypatch.setattr(board.pipe, "maybe_free_model_hooks", lambda: freed.append(True))

    replay = Replay(board, CASES)
    assert len(freed) == 1, "by the pipeline itself"
    with replay, torch.no_grad():
        replay.compute(0, replay.start())

    assert len(freed) == 2


def test_several_denoisers_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="one denoiser"):
        Replay(ZooBoard("WanPipeline (two transformers)", 4), CASES)
