from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, EveryK, FBCache, StaticSchedule, uniform_decision
from ditcache_rl.instrument import Request
from ditcache_rl.instrument.branches import CallFacts
from ditcache_rl.instrument.context import current_request
from ditcache_rl.instrument.layout import Layout
from ditcache_rl.shapes.recipe.components import build_scheduler
from ditcache_rl.types import Decision, EntryKey, Mode, RunInfo, StepInfo, Tier
from tests.kit.pipelines import GUIDANCE, PROMPTS, STEPS, assert_close, draw, draw_under

ROWS = 3


@pytest.fixture(scope="module")
def entry_bytes(tiny_pipe: Any) -> int:
    """Bytes of one residual of the whole stack, for one row."""
    _, log = draw_under(tiny_pipe, EveryK(STEPS))
    return log.peak_bytes


def test_a_cache_too_small_for_one_entry_means_full_compute(
    tiny_pipe: Any, entry_bytes: int
) -> None:
    plain = draw(tiny_pipe)

    latents, log = draw_under(tiny_pipe, EveryK(3, order=2), cap_bytes=entry_bytes - 1)

    assert torch.equal(latents, plain)
    assert (log.modes == Mode.COMPUTE).all()
    assert log.compute_share.tolist() == [1.0]
    assert log.peak_bytes == 0


@pytest.mark.parametrize("entries", [1, 2, 3])
def test_a_cache_for_few_entries_lowers_the_order_and_not_the_savings(
    tiny_pipe: Any, entry_bytes: int, entries: int
) -> None:
    modes = np.array([[0], [1], [0], [2], [0], [3]], dtype=np.int8)
    expected, _ = draw_under(tiny_pipe, StaticSchedule.of(np.minimum(modes, entries)))

    latents, log = draw_under(tiny_pipe, StaticSchedule.of(modes), cap_bytes=entries * entry_bytes)

    assert np.array_equal(log.modes[:, 0], np.minimum(modes, entries))
    assert torch.equal(latents, expected)
    assert log.peak_bytes == entries * entry_bytes


def test_dropped_residuals_are_not_kept_in_any_row(tiny_pipe: Any) -> None:
    class DropSecondRow:
        probe_blocks = 0

        def reset(self, run: RunInfo) -> None:
            pass

        def decide(self, info: StepInfo) -> Decision:
            mode = Mode.REUSE if info.step == 3 else Mode.COMPUTE
            modes = np.full((2, 1), mode, dtype=np.int8)
            tiers = np.array([[Tier.DEVICE], [Tier.DROP]], dtype=np.int8)
            valid = [] if not info.step else info.history[0].valid.tolist()
            seen.append(valid)
            return Decision(modes, tiers)

    seen: list[list[int]] = []
    alone, _ = draw_under(
        tiny_pipe, StaticSchedule.of(np.array([[0], [0], [0], [1], [0], [0]], dtype=np.int8))
    )

    latents, log = draw_under(tiny_pipe, DropSecondRow(), prompts=PROMPTS, seeds=(0, 1))

    assert seen == [[], [1, 0], [2, 0], [3, 0], [3, 0], [3, 0]]
    assert log.modes[3, :, 0].tolist() == [Mode.REUSE, Mode.COMPUTE]
    assert_close(latents[:1], alone)
    assert_close(latents[1:], draw(tiny_pipe, PROMPTS[1], seeds=(1,)))


def test_a_request_belongs_to_its_context_and_frees_what_it_kept() -> None:
    cache = TieredCache()
    one, two = (Request(AllCompute(), cache, build_scheduler(), 1) for _ in range(2))

    with one.current():
        cache.put(EntryKey(one.id, 0, 0, 0), torch.ones(4))
        cache.put(EntryKey(two.id, 0, 0, 0), torch.ones(5))
        with two.current():
            assert current_request() is two
        assert current_request() is one
        assert cache.used_bytes == 16
    assert current_request() is None
    assert cache.used_bytes == 0


def test_a_batch_of_another_size_is_left_alone(tiny_pipe: Any) -> None:
    scheduler = build_scheduler()
    request = Request(FBCache(0.1), TieredCache(), scheduler, 1)
    scheduler.set_timesteps(3)
    layout = Layout("transformer", tiny_pipe.transformer, 0, sites=1, probe_blocks=0, blocks=None)

    with request.current():
        off = []
        for rows in (2, 3, 4, 2):
            request.begin_call(layout, CallFacts(torch.zeros(rows, 3, 4), None, None, ()))
            off.append(request.off)
            request.end_call(None)
            scheduler._step_index = (scheduler._step_index or 0) + 1

    assert off == [False, True, False, True], "no multiple of two rows, and behind the last step"
    assert request.off


def test_a_controller_sees_the_clock_of_the_scheduler(tiny_pipe: Any) -> None:
    class Watching:
        probe_blocks = 0

        def reset(self, run: RunInfo) -> None:
            pass

        def decide(self, info: StepInfo) -> Decision:
            seen.append((info.step, info.sigma, info.sigma_next))
            return uniform_decision(info.run, Mode.COMPUTE)

    seen: list[tuple[int, float, float]] = []

    draw_under(tiny_pipe, Watching(), **GUIDANCE)

    sigmas = tiny_pipe.scheduler.sigmas.tolist()
    assert seen == [(step, sigmas[step], sigmas[step + 1]) for step in range(STEPS)]
