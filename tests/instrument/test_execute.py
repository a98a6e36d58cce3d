from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.zoo.loop import DenoiserLoop
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import EveryK, StaticSchedule
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.types import Mode, Modes
from tests.kit.oracle import SITE_EDGES, effective, overruled
from tests.kit.pipelines import BLOCKS, GUIDANCE, PROMPTS, STEPS, assert_close, draw, draw_under

#: An example is two or three calls of the pipeline.
FEW = settings(max_examples=8)


def tables(*, rows: int, sites: int) -> st.SearchStrategy[Modes]:
    """Draw (steps, rows, sites) tables whose first step computes."""

    def start(table: Modes) -> Modes:
        table[0] = Mode.COMPUTE
        return table

    return arrays(np.int8, (STEPS, rows, sites), elements=st.integers(0, 3)).map(start)


@contextmanager
def counted_rows(pipe: Any) -> Iterator[list[int]]:
    """Count the rows that each block really computes, by its attention."""
    transformer = pipe.transformer
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    rows = [0] * len(blocks)

    def counter(index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
            rows[index] += len(kwargs["hidden_states"])

        return hook

    handles = [
        block.attn.register_forward_pre_hook(counter(index), with_kwargs=True)
        for index, block in enumerate(blocks)
    ]
    yield rows
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("sites", SITE_EDGES)
def test_every_schedule_draws_what_its_blocks_would_if_overruled(
    tiny_pipe: Any, sites: int
) -> None:
    @FEW
    @given(tables(rows=2, sites=sites))
    def check(modes: Modes) -> None:
        latents, log = draw_under(
            tiny_pipe, StaticSchedule.of(modes), sites=sites, prompts=PROMPTS, seeds=(0, 1)
        )
        with overruled(tiny_pipe, modes):
            expected = draw(tiny_pipe, PROMPTS, seeds=(0, 1))

        assert_close(latents, expected)
        assert np.array_equal(log.modes, effective(modes))

    check()


@pytest.mark.parametrize("sites", [1, 3])
def test_rows_with_schedules_of_their_own_equal_single_runs(tiny_pipe: Any, sites: int) -> None:
    @FEW
    @given(tables(rows=2, sites=sites))
    def check(modes: Modes) -> None:
        together, _ = draw_under(
            tiny_pipe, StaticSchedule.of(modes), sites=sites, prompts=PROMPTS, seeds=(0, 1)
        )

        for row in range(2):
            alone, _ = draw_under(
                tiny_pipe,
                StaticSchedule.of(modes[:, row]),
                sites=sites,
                prompts=PROMPTS[row],
                seeds=(row,),
            )
            assert_close(together[row], alone[0])

    check()


@pytest.mark.parametrize("sites", SITE_EDGES)
def test_a_block_computes_exactly_the_rows_that_its_site_computes(
    tiny_pipe: Any, sites: int
) -> None:
    modes = np.random.default_rng(sites).integers(0, 4, (STEPS, 2, sites)).astype(np.int8)
    modes[0] = Mode.COMPUTE

    with counted_rows(tiny_pipe) as rows:
        draw_under(tiny_pipe, StaticSchedule.of(modes), sites=sites, prompts=PROMPTS, seeds=(0, 1))

    per_site = (modes == Mode.COMPUTE).sum(axis=(0, 1))
    edges = SITE_EDGES[sites]
    expected = [per_site[np.searchsorted(edges, block, "right") - 1] for block in range(BLOCKS)]
    assert rows == expected


def test_a_full_schedule_of_reuse_computes_each_block_once(tiny_pipe: Any) -> None:
    modes = np.full((STEPS, 1), Mode.REUSE, dtype=np.int8)
    modes[0] = Mode.COMPUTE

    with counted_rows(tiny_pipe) as rows:
        _, log = draw_under(tiny_pipe, StaticSchedule.of(modes))

    assert rows == [1] * BLOCKS
    assert log.compute_share.tolist() == [1 / STEPS]


@pytest.mark.parametrize("sites", [1, 3])
def test_guidance_branches_have_histories_of_their_own(tiny_pipe: Any, sites: int) -> None:
    modes = np.array([[0], [1], [0], [2], [1], [3]], dtype=np.int8).repeat(sites, axis=1)
    modes[3, 0] = Mode.COMPUTE

    latents, log = draw_under(tiny_pipe, StaticSchedule.of(modes), sites=sites, **GUIDANCE)
    with overruled(tiny_pipe, modes[:, None], branches=2):
        expected = draw(tiny_pipe, **GUIDANCE)
    with overruled(tiny_pipe, modes[:, None]):
        unguided = draw(tiny_pipe)

    assert_close(latents, expected)
    assert (latents - unguided).abs().max() > 1e-2, "guidance changes the image"
    assert np.array_equal(log.modes, effective(modes[:, None]))


def test_guidance_comes_and_goes_between_the_calls_of_an_attached_pipeline(tiny_pipe: Any) -> None:
    calls: list[dict[str, Any]] = [{}, GUIDANCE, {}, GUIDANCE]
    expected = [draw_under(tiny_pipe, EveryK(2), **call)[0] for call in calls]

    with BlockRunner(tiny_pipe, EveryK(2), TieredCache()):
        drawn = [draw(tiny_pipe, **call) for call in calls]

    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    assert not torch.equal(drawn[0], drawn[1])


def test_rows_that_come_in_a_list_are_computed() -> None:
    loop = DenoiserLoop("ZImageTransformer2DModel")
    call: dict[str, Any] = {"seeds": [0], "size": 8, "num_inference_steps": 3}
    plain = loop(**call)

    with BlockRunner(loop, EveryK(2), TieredCache(), blocks="transformer"):
        assert torch.equal(loop(**call), plain)
