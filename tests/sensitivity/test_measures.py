import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from ditcache_rl.bench import Board, Case
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, StaticSchedule
from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.pipelines.compress import quantize_weights
from ditcache_rl.sensitivity import (
    SUBLAYERS,
    attention_sensitivity,
    gradient_sensitivity,
    injection_sensitivity,
    rank_correlation,
)
from ditcache_rl.sensitivity.attention import attention_weights
from ditcache_rl.types import Mode
from tests.kit.pipelines import BLOCKS, CALL, PROMPTS

STEPS, SITES = 4, 3
CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS[:2])]


@pytest.fixture
def board(tiny_pipe: Any) -> Board:
    return Board(tiny_pipe, STEPS, sites=SITES, call=CALL, rows=8)


def test_the_gradient_foretells_the_error_that_an_injection_makes(board: Board) -> None:
    foretold = gradient_sensitivity(board, CASES, probes=64, rows=32).mean(axis=0)
    made = injection_sensitivity(board, CASES).mean(axis=0)

    assert np.isnan(foretold[0]).all()
    assert np.isnan(made[0]).all()
    np.testing.assert_allclose(np.log2(foretold[1:] / made[1:]), 0, atol=1)
    assert rank_correlation(foretold, made) > 0.9


def test_an_injection_draws_what_a_schedule_would(board: Board) -> None:
    made = injection_sensitivity(board, CASES[:1])[0]

    for step, site in [(1, 0), (2, 2), (STEPS - 1, 1)]:
        modes = np.zeros((STEPS, SITES), dtype=np.int8)
        modes[step, site] = Mode.REUSE
        image = board.draw(CASES[:1], StaticSchedule.of(modes)).images
        error = (image - board.references(CASES[:1])).double().square().mean()
        assert made[step, site] == pytest.approx(float(error), rel=1e-3)


def test_the_gradient_foretells_injections_into_sublayers(board: Board) -> None:
    foretold = gradient_sensitivity(board, CASES, sublayers=True, probes=64, rows=32).mean(axis=0)
    made = injection_sensitivity(board, CASES, sublayers=True).mean(axis=0)

    assert made.shape == (STEPS, len(SUBLAYERS) * BLOCKS)
    assert rank_correlation(foretold, made) > 0.9


def test_attention_weights_lie_in_their_ranges_and_move(board: Board) -> None:
    found = attention_sensitivity(board, CASES)

    assert found.drift.shape == found.entropy.shape == (len(CASES), STEPS, SITES)
    assert np.isnan(found.drift[:, 0]).all()
    assert ((found.drift[:, 1:] > 0) & (found.drift[:, 1:] <= 1)).all()
    assert ((found.entropy > 0) & (found.entropy <= 1)).all()


@pytest.mark.parametrize(
    "measure", [gradient_sensitivity, attention_sensitivity, injection_sensitivity]
)
def test_cases_are_measured_each_for_itself(measure: Callable[..., Any], board: Board) -> None:
    def values(cases: list[Case], rows: int) -> Any:
        found = measure(board, cases, rows=rows)
        return found if isinstance(found, np.ndarray) else found.drift

    together, apart = values(CASES, 8), values(CASES, 1)

    if measure is not gradient_sensitivity:  # whose random images depend on the batch
        np.testing.assert_allclose(together, apart, rtol=1e-3)
    assert together.shape == apart.shape == (len(CASES), STEPS, SITES)


@pytest.mark.parametrize(
    "measure", [gradient_sensitivity, attention_sensitivity, injection_sensitivity]
)
def test_a_measure_leaves_the_pipeline_as_it_was(measure: Callable[..., Any], board: Board) -> None:
    pipe = board.pipe
    modules = [pipe.transformer, *pipe.transformer.modules()]
    before = [(dict(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    needs = [weight.requires_grad for weight in pipe.transformer.parameters()]
    kind, images = type(pipe), board.draw(CASES).images

    measure(board, CASES)

    assert type(pipe) is kind
    assert [weight.requires_grad for weight in pipe.transformer.parameters()] == needs
    after = [(dict(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    assert [a[0].keys() for a in after] == [b[0].keys() for b in before]
    assert [a[1:] for a in after] == [b[1:] for b in before]
    assert torch.equal(board.draw(CASES).images, images)


@pytest.mark.parametrize("measure", [gradient_sensitivity, attention_sensitivity])
def test_a_failing_pipeline_is_restored_too(measure: Callable[..., Any], board: Board) -> None:
    kind, keys = type(board.pipe), set(vars(board.pipe.transformer))

    def fail(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("lost")

    call = CALL | {"callback_on_step_end": fail}
    with pytest.raises(ValueError, match="lost"):
        measure(Board(board.pipe, STEPS, sites=SITES, call=call), CASES)

    assert type(board.pipe) is kind
    assert set(vars(board.pipe.transformer)) == keys


def test_a_pipeline_that_stops_gradients_is_refused(board: Board) -> None:
    transformer = board.pipe.transformer
    transformer.forward = torch.no_grad()(transformer.forward)
    try:
        with pytest.raises(UnsupportedModelError, match="measure by attention or injection"):
            gradient_sensitivity(board, CASES)
    finally:
        del transformer.forward


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_weights_are_refused_before_anything_is_drawn(
    kind: str, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = copy.deepcopy(board.pipe.transformer)
    quantize_weights(transformer, kind)
    monkeypatch.setattr(board.pipe, "transformer", transformer)
    monkeypatch.setattr(board, "draw", lambda _: pytest.fail("drawn"))

    with pytest.raises(UnsupportedModelError, match=r"at transformer\..*attention or injection"):
        gradient_sensitivity(board, CASES)


def test_an_attached_pipeline_is_not_listened_to(board: Board) -> None:
    with (
        BlockRunner(board.pipe, AllCompute(), TieredCache()),
        pytest.raises(StateError, match="expected a plain pipeline"),
    ):
        attention_sensitivity(board, CASES)


def test_an_attention_that_hands_nothing_out_is_refused(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(query: Any, key: Any, value: Any, **_: Any) -> Any:
        weights = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)
        return (weights.softmax(-1) @ value.transpose(1, 2)).transpose(1, 2)

    module = "diffusers.models.transformers.transformer_flux.dispatch_attention_fn"
    monkeypatch.setattr(module, fused)

    with pytest.raises(UnsupportedModelError, match="fused kernels hand no weights out"):
        attention_sensitivity(board, CASES)


@given(
    st.integers(1, 8), st.integers(1, 8), st.booleans(), st.sampled_from(["none", "bool", "add"])
)
def test_weights_times_values_are_the_attention(
    queries: int, keys: int, grouped: bool, kind: str
) -> None:
    generator = torch.Generator().manual_seed(queries * 10 + keys)
    heads = 4
    query = torch.randn(2, heads, queries, 8, generator=generator)
    key, value = torch.randn(2, 2, 2 if grouped else heads, keys, 8, generator=generator)
    mask = {
        "none": None,
        "bool": torch.rand(queries, keys, generator=generator).argsort(-1) <= keys // 2,
        "add": torch.randn(1, 1, 1, keys, generator=generator),
    }[kind]
    arguments: dict[str, Any] = {"attn_mask": mask, "enable_gqa": grouped}

    weights = attention_weights(query, key, value, **arguments)

    repeated = value.repeat_interleave(heads // value.shape[1], dim=1)
    expected = functional.scaled_dot_product_attention(query, key, value, **arguments)
    torch.testing.assert_close(weights @ repeated, expected, rtol=1e-4, atol=1e-5)
