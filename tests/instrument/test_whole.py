"""A denoiser that is its own only block: what it returns is cached."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, EveryK, FBCache, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import HISTORY, Decision, Mode, Modes, StepInfo
from tests.instrument.test_execute import FEW, tables
from tests.kit.oracle import effective, overruled_output
from tests.kit.pipelines import GUIDANCE, PROMPTS, STEPS, assert_close, draw, draw_under


def test_every_schedule_draws_what_the_denoiser_would_if_overruled(tiny_pipe: Any) -> None:
    @FEW
    @given(tables(rows=2, sites=1))
    def check(modes: Modes) -> None:
        modes = effective(modes)
        call: dict[str, Any] = {"prompts": PROMPTS, "seeds": (0, 1)}
        with overruled_output(tiny_pipe, modes):
            expected = draw(tiny_pipe, **call)

        latents, log = draw_under(tiny_pipe, StaticSchedule.of(modes), blocks="transformer", **call)

        assert_close(latents, expected)
        np.testing.assert_array_equal(log.modes, modes)

    check()


def test_guidance_branches_are_kept_apart(tiny_pipe: Any) -> None:
    modes = np.array([[0], [0], [2], [1], [0], [2]], dtype=np.int8)
    with overruled_output(tiny_pipe, modes[:, None], branches=2):
        expected = draw(tiny_pipe, **GUIDANCE)

    latents, log = draw_under(tiny_pipe, StaticSchedule.of(modes), blocks="transformer", **GUIDANCE)

    assert_close(latents, expected)
    assert log.branches == 2


def test_computing_everything_is_bit_identical_and_nothing_stays(tiny_pipe: Any) -> None:
    plain, before = draw(tiny_pipe), set(vars(tiny_pipe.transformer))

    latents, _ = draw_under(tiny_pipe, AllCompute(), blocks="transformer")

    assert torch.equal(latents, plain)
    assert set(vars(tiny_pipe.transformer)) == before
    assert torch.equal(draw(tiny_pipe), plain)


def test_a_step_that_computes_nothing_runs_no_part_of_the_denoiser(tiny_pipe: Any) -> None:
    runs = []
    handles = [
        module.register_forward_hook(lambda *_: runs.append(1))
        for module in (tiny_pipe.transformer.x_embedder, tiny_pipe.transformer.proj_out)
    ]
    try:
        _, log = draw_under(tiny_pipe, EveryK(3), blocks="transformer")
    finally:
        for handle in handles:
            handle.remove()

    computed = int((log.modes == Mode.COMPUTE).sum())
    assert computed == STEPS // 3
    assert len(runs) == 2 * computed


def test_what_is_returned_as_an_object_comes_back_as_one(tiny_pipe: Any) -> None:
    transformer = tiny_pipe.transformer
    plain = transformer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:  # as a pipeline would call it that reads .sample
        return plain(*args, **{**kwargs, "return_dict": True})

    expected, _ = draw_under(tiny_pipe, EveryK(2), blocks="transformer")
    transformer.forward = forward
    try:
        latents, _ = draw_under(tiny_pipe, EveryK(2), blocks="transformer")
    finally:
        del transformer.forward

    assert torch.equal(latents, expected)


def test_a_rule_that_looks_into_the_blocks_is_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"whole denoiser .* 1 probe blocks"):
        BlockRunner(tiny_pipe, FBCache(0.1), TieredCache(), blocks="transformer")
    with pytest.raises(ConfigError, match="expected sites = 1"):
        BlockRunner(tiny_pipe, AllCompute(), TieredCache(), blocks="transformer", sites=2)


FITTED = np.array([0, 1, 0, 2, 0, 3], dtype=np.int8)[:, None]
COEFFICIENTS = np.where(FITTED > 0, [1.2, -0.1, 0.2], np.nan) * (np.arange(HISTORY) < FITTED)


@pytest.mark.parametrize("entries", [1, 2])
def test_fitted_coefficients_are_left_where_residuals_are_missing(
    tiny_pipe: Any, entries: int
) -> None:
    entry_bytes = draw(tiny_pipe).nbytes
    left = np.where(entries >= FITTED, COEFFICIENTS, np.nan)
    lowered = np.minimum(FITTED, entries)
    expected, _ = draw_under(tiny_pipe, StaticSchedule.of(lowered, left), blocks="transformer")

    latents, log = draw_under(
        tiny_pipe,
        StaticSchedule.of(FITTED, COEFFICIENTS),
        blocks="transformer",
        cap_bytes=entries * entry_bytes,
    )

    np.testing.assert_array_equal(log.modes[:, 0], lowered)
    assert torch.equal(latents, expected)


def test_fitted_coefficients_are_left_where_other_steps_were_computed(tiny_pipe: Any) -> None:
    other = np.array([0, 1, 1, 0, 0, 3], dtype=np.int8)[:, None]

    class Astray(StaticSchedule):
        """Follows another table than the coefficients were fitted to."""

        def decide(self, info: StepInfo) -> Decision:
            decision = super().decide(info)
            return decision._replace(modes=np.repeat(other[info.step][None], info.run.rows, axis=0))

        def planned(self) -> None:  # type: ignore[override]
            """Let nothing rely on the table."""

    before = np.where(np.arange(STEPS)[:, None] < 2, COEFFICIENTS, np.nan)
    expected, _ = draw_under(tiny_pipe, StaticSchedule.of(other, before), blocks="transformer")

    latents, _ = draw_under(tiny_pipe, Astray(Schedule(FITTED, COEFFICIENTS)), blocks="transformer")

    assert torch.equal(latents, expected)
