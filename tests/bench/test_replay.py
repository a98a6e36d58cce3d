from typing import Any

import pytest
import torch

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute
from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.taps import taps_of
from tests.kit.pipelines import BLOCKS, GUIDANCE, PROMPTS, draw

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


def test_an_attached_pipeline_is_not_replayed(board: Board) -> None:
    with (
        BlockRunner(board.pipe, AllCompute(), TieredCache()),
        pytest.raises(StateError, match="attached"),
    ):
        Replay(board, CASES[:1])


def test_two_guidance_branches_are_refused(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    guided = Board(tiny_pipe, 2, sites=1, call=tiny_call | GUIDANCE)

    with pytest.raises(UnsupportedModelError, match="received 4 calls in 2 steps"):
        Replay(guided, CASES[:1])
