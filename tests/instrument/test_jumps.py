"""What a log notes of estimates that were off, as a reader with all outputs at hand computes it."""

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ditcache_rl.control import AllCompute, EveryK, StaticSchedule
from ditcache_rl.instrument import RequestLog
from ditcache_rl.instrument.log import jump
from ditcache_rl.types import RunInfo
from tests.kit.pipelines import GUIDANCE, PROMPTS, STEPS, draw_under

#: Computes 0, 3 and the last step; at the last nothing is read any more.
MODES = np.array([[0], [1], [1], [0], [1], [0]], dtype=np.int8)


@pytest.mark.parametrize("blocks", [None, "transformer"])
def test_a_jump_is_by_what_the_predicted_clean_image_changes(
    tiny_pipe: Any, blocks: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    plain = tiny_pipe.scheduler.step

    def step(output: Tensor, timestep: Tensor, latents: Tensor, **options: Any) -> Any:
        seen.append((latents, output))
        return plain(output, timestep, latents, **options)

    monkeypatch.setattr(tiny_pipe.scheduler, "step", step)
    _, log = draw_under(tiny_pipe, StaticSchedule.of(MODES), blocks=blocks)

    assert len(seen) == STEPS
    jumps, sigmas = log.jumps(), log.run.sigmas
    assert np.flatnonzero(np.isfinite(jumps).all(axis=(0, 2))).tolist() == [3, 5]
    for at in (3, 5):
        clean = [seen[k][0] - sigmas[k] * seen[k][1] for k in (at - 1, at)]
        # In a step of the sampler the change of the clean image is that of the velocity.
        apart = (clean[0] - clean[1]) / sigmas[at]
        off, size = (tensor.square().mean((1, 2)) for tensor in (apart, seen[at][1]))
        along = (apart * seen[at][1]).mean((1, 2)) / size
        expected = torch.stack([off.log(), size.log(), along], 1)
        np.testing.assert_allclose(jumps[:, at], expected, rtol=1e-3, atol=1e-3)


def test_full_compute_notes_nothing(tiny_pipe: Any) -> None:
    _, full = draw_under(tiny_pipe, AllCompute())

    assert np.isnan(full.jumps()).all()


def test_of_several_branches_the_last_one_is_noted(tiny_pipe: Any) -> None:
    outputs: list[Tensor] = []
    handle = tiny_pipe.transformer.register_forward_hook(
        lambda _, args, output: outputs.append(output[0])
    )
    try:
        _, log = draw_under(tiny_pipe, StaticSchedule.of(MODES), **GUIDANCE)
    finally:
        handle.remove()

    assert len(outputs) == 2 * STEPS
    last = outputs[1::2]
    told = np.isfinite(log.jumps()).all(axis=(0, 2))
    assert np.flatnonzero(told).tolist() == [3], "at step 5, which nobody reads, nobody tells them"
    np.testing.assert_allclose(log.jumps()[:, 3], jump(last[3], last[2]), rtol=1e-5)


def test_rows_that_differ_note_what_they_have_alone(tiny_pipe: Any) -> None:
    full, late = np.zeros_like(MODES), MODES[[0, 1, 0, 0, 1, 0]]
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    rows = StaticSchedule.of(np.stack([MODES, full, late], axis=1))
    _, log = draw_under(tiny_pipe, rows, prompts=prompts, seeds=(0, 1, 2))

    told = np.isfinite(log.jumps().min(axis=2))
    assert [np.flatnonzero(row).tolist() for row in told] == [[3, 5], [], [2, 5]]
    for step in range(STEPS):
        found = log.error(step)
        if found is None:
            assert not told[:, step].any()
            continue
        error = found()
        off, size, _ = log.jumps()[:, step].T
        np.testing.assert_allclose(error, np.sqrt(np.exp(off) / np.exp(size)))
        assert np.isfinite(error).tolist() == told[:, step].tolist()


def test_a_log_keeps_no_output_alive(tiny_pipe: Any) -> None:
    kept: list[weakref.ref[Tensor]] = []
    handle = tiny_pipe.transformer.register_forward_hook(
        lambda _, args, output: kept.append(weakref.ref(output[0]))
    )
    try:
        _, log = draw_under(tiny_pipe, EveryK(2))
    finally:
        handle.remove()
    gc.collect()

    assert len(kept) == STEPS
    assert [one() for one in kept] == [None] * STEPS
    assert np.isfinite(log.jumps()).any()


@pytest.mark.parametrize("output", [math.nan, math.inf, 1e30])
def test_an_estimate_of_something_that_is_not_finite_is_infinitely_off(output: float) -> None:
    log = RequestLog(RunInfo(2, np.array([1.0, 0.5, 0.0]), 2, 1))
    log.modes[:, :, 0] = [[1, 0], [0, 0]]
    log.note_output(0, torch.zeros(2, 3), torch.ones(2, 3))
    log.note_output(1, torch.zeros(2, 3), torch.full((2, 3), output))
    log.end(0.0)

    found = log.error(1)
    assert found is not None
    error = found()
    assert error[0] == math.inf
    assert np.isnan(error[1])
