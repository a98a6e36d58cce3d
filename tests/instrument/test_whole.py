from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, EveryK, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.signatures import make_signature, map_tensors
from ditcache_rl.types import Mode
from tests.pipelines import GUIDANCE, PROMPTS, assert_close, draw

STEPS = 6


def under(pipe: Any, controller: Any, **call: Any) -> tuple[torch.Tensor, RequestLog]:
    logs: list[RequestLog] = []
    cache = TieredCache()
    with BlockRunner(pipe, controller, cache, blocks="transformer", on_finish=logs.append):
        latents = draw(pipe, steps=STEPS, **call)
    assert cache.used_bytes == 0
    return latents, logs[0]


@pytest.mark.parametrize("call", [{}, GUIDANCE])
def test_the_whole_denoiser_computed_is_the_plain_pipeline(
    tiny_pipe: Any, call: dict[str, Any]
) -> None:
    plain = draw(tiny_pipe, steps=STEPS, **call)

    for controller in (AllCompute(), EveryK(1)):
        assert torch.equal(under(tiny_pipe, controller, **call)[0], plain)
    assert torch.equal(draw(tiny_pipe, steps=STEPS, **call), plain)
    assert "_compiled_call_impl" not in tiny_pipe.transformer.__dict__


@pytest.mark.parametrize("call", [{}, GUIDANCE])
def test_a_reused_step_returns_the_output_of_the_last_computed_one(
    tiny_pipe: Any, call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_pipe.transformer.forward
    branches = 2 if call else 1
    outputs: list[Any] = []

    def every_second(*args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(len(outputs), branches)
        kept = outputs[(step - 1) * branches + branch] if step % 2 else plain(*args, **kwargs)
        outputs.append(kept)
        return kept

    with monkeypatch.context() as patch:
        patch.setattr(tiny_pipe.transformer, "forward", every_second)
        expected = draw(tiny_pipe, steps=STEPS, **call)

    latents, log = under(tiny_pipe, EveryK(2), **call)

    assert torch.equal(latents, expected)
    assert log.modes[:, 0, 0].tolist() == [0, 1] * 3


def test_a_skipped_step_runs_no_part_of_the_denoiser(tiny_pipe: Any) -> None:
    calls = []
    handle = tiny_pipe.transformer.x_embedder.register_forward_hook(lambda *_: calls.append(1))
    try:
        under(tiny_pipe, EveryK(3, order=1))
    finally:
        handle.remove()

    assert len(calls) == 2


def test_rows_with_schedules_of_their_own_are_drawn_as_alone(tiny_pipe: Any) -> None:
    tables = [
        np.array([0, 1, 0, 2, 0, 1], dtype=np.int8)[:, None],
        np.array([0, 0, 2, 2, 1, 0], dtype=np.int8)[:, None],
    ]
    both = StaticSchedule(np.stack(tables, axis=1))

    together, _ = under(tiny_pipe, both, prompts=PROMPTS, seeds=(0, 1))

    for row, table in enumerate(tables):
        alone, _ = under(tiny_pipe, StaticSchedule(table), prompts=PROMPTS[row], seeds=(row,))
        assert_close(together[row], alone[0])


def test_an_output_class_is_handed_out_as_one(tiny_pipe: Any) -> None:
    signature = make_signature(tiny_pipe.transformer, [("hidden_states", 0)], is_tuple=True)
    output = Transformer2DModelOutput(sample=torch.ones(2, 3))

    form = map_tensors(output, torch.zeros_like)
    packed = signature.pack([torch.full((2, 3), 5.0)], form)

    assert isinstance(packed, Transformer2DModelOutput)
    assert (packed.sample == 5).all()
    assert (form.sample == 0).all()


def test_the_whole_denoiser_is_one_site(tiny_pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"a whole denoiser .* one site"):
        BlockRunner(tiny_pipe, EveryK(2), TieredCache(), sites=2, blocks="transformer")


def test_forecasts_of_outputs_go_along_the_line_through_two_of_them(tiny_pipe: Any) -> None:
    _, log = under(tiny_pipe, EveryK(2, order=1))

    assert log.modes[:, 0, 0].tolist() == [0, Mode.REUSE, 0, Mode.FORECAST1, 0, Mode.FORECAST1]
