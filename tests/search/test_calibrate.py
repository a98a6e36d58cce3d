import itertools
from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.control import StaticSchedule
from ditcache_rl.schedules.forecast import newton_coefficients, weighted_sum
from ditcache_rl.search.calibrate import (
    ErrorTable,
    Products,
    fitted_gap_costs,
    gap_costs,
    measure_gaps,
    measure_products,
)
from ditcache_rl.types import Mode
from tests.kit.pipelines import PROMPTS, draw, draw_under

STEPS = 5
CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


@pytest.fixture
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, STEPS, sites=1, call=tiny_call)


@pytest.mark.parametrize("mode", [Mode.REUSE, Mode.FORECAST1])
def test_errors_are_those_of_estimates_that_are_formed(board: Board, mode: Mode) -> None:
    table = ErrorTable.of(measure_products(board, CASES))
    residuals = []
    with Replay(board, CASES) as replay, torch.no_grad():
        latents, sigmas = replay.start(), replay.sigmas
        for step in range(STEPS):
            output, residual = replay.compute(step, latents)
            latents = replay.advance(step, output, latents)
            residuals.append(residual)

    for i, j, t in ((0, 0, 1), (0, 0, 4), (0, 1, 2), (1, 2, 4)):
        order = min(mode - Mode.REUSE, int(i < j))
        coefficients = newton_coefficients(sigmas[[j, i]], sigmas[t], order)
        estimate = weighted_sum([residuals[j], residuals[i]], np.stack([coefficients] * 2))
        error = (estimate - residuals[t]).norm(dim=1)
        relative = (error / residuals[t].norm(dim=1)).mean().item()
        assert table.relative[mode][i, j, t] == pytest.approx(relative, rel=1e-3)
        moved = error.mean().item() * (sigmas[t] - sigmas[t + 1])
        assert table.displacement[mode][i, j, t] == pytest.approx(moved, rel=1e-3)
    assert np.isinf(table.relative[mode][2, 1, 3])
    assert np.isinf(table.relative[mode][0, 2, 2])


def test_residuals_of_full_compute_are_noted_not_computed_again(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    board = Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")
    with Replay(board, CASES) as replay, torch.no_grad():
        latents = replay.recorded()[:-1]
        computed = [replay.compute(step, before)[1] for step, before in enumerate(latents)]
    calls: list[None] = []
    hook = tiny_pipe.transformer.x_embedder.register_forward_hook(lambda *_: calls.append(None))

    products = measure_products(board, CASES)

    hook.remove()
    assert len(calls) == STEPS, "a step of the recorded call each"
    outputs = torch.stack(computed, dim=1).double()
    np.testing.assert_allclose(products.gram, (outputs @ outputs.mT).numpy(), rtol=1e-4)


def test_a_fitted_gap_lacks_what_no_sum_of_its_two_residuals_can_give() -> None:
    rng = np.random.default_rng(0)
    residuals, sigmas = rng.normal(size=(3, STEPS, 7)), np.sort(rng.uniform(size=STEPS + 1))[::-1]
    gram = residuals @ residuals.transpose(0, 2, 1)

    costs = fitted_gap_costs(Products(gram, sigmas))

    moves = np.diff(sigmas)
    for i, j, k in itertools.product(range(STEPS), range(STEPS), range(STEPS + 1)):
        if i > j or k <= j + 1:
            assert costs[i, j, k] == 0
            continue
        lacking = (moves[j + 1 : k, None] * residuals[:, j + 1 : k]).sum(axis=1).ravel()
        known = np.stack([residuals[:, i].ravel(), residuals[:, j].ravel()], axis=1)
        left = lacking - known @ np.linalg.lstsq(known, lacking)[0]
        assert costs[i, j, k] == pytest.approx((left**2).sum() / 3)


@pytest.mark.parametrize("mode", [Mode.REUSE, Mode.FORECAST1])
def test_a_gap_costs_what_a_run_with_that_gap_alone_loses(board: Board, mode: Mode) -> None:
    steps: list[int] = []

    edges = measure_gaps(board, CASES, mode, longest=2, on_step=steps.append)

    assert sum(steps) == STEPS * len(CASES)
    for j in range(STEPS):
        for k in range(j + 1, STEPS + 1):
            modes = np.zeros((STEPS, 1), dtype=np.int8)
            modes[j + 1 : k] = mode
            if k - j - 1 > 2:
                assert np.isinf(edges[j, k])
                continue
            pipe, prompts, seeds = board.pipe, PROMPTS, (0, 1)
            real, _ = draw_under(
                pipe, StaticSchedule.of(modes), prompts=prompts, seeds=seeds, steps=STEPS
            )
            lost = (real - draw(pipe, prompts, seeds=seeds, steps=STEPS)).abs().mean().item()
            assert edges[j, k] == pytest.approx(lost, rel=1e-2, abs=1e-6)
    assert np.isinf(edges[3, 2])


def test_a_gap_adds_up_what_it_skips() -> None:
    errors = np.arange(64, dtype=float).reshape(4, 4, 4)

    costs = gap_costs(errors, power=2.0)

    assert costs[0, 1, 2] == 0  # nothing lies between
    assert costs[0, 1, 4] == errors[0, 1, 2] ** 2 + errors[0, 1, 3] ** 2
    assert costs[1, 2, 4] == errors[1, 2, 3] ** 2
