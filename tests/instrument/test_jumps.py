"""What a log notes of estimates that were off, as a reader with all outputs at hand computes it."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ditcache_rl.control import AllCompute, EveryK, StaticSchedule
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


def test_full_compute_and_guidance_note_nothing(tiny_pipe: Any) -> None:
    _, full = draw_under(tiny_pipe, AllCompute())
    _, guided = draw_under(tiny_pipe, StaticSchedule.of(MODES), **GUIDANCE)

    assert np.isnan(full.jumps()).all()
    assert np.isnan(guided.jumps()).all(), "which of the branches would it be?"


def test_rows_that_differ_note_nothing(tiny_pipe: Any) -> None:
    rows = np.stack([MODES, np.zeros_like(MODES), MODES], axis=1)

    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    _, log = draw_under(tiny_pipe, StaticSchedule.of(rows), prompts=prompts, seeds=(0, 1, 2))

    assert np.isnan(log.jumps()).all()


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
