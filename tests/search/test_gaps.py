from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ditcache_rl.bench import Board, Case
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.search.calibrate import fitted_gap_costs
from ditcache_rl.search.gap_costs import fit_costs, shaken_paths
from ditcache_rl.search.gaps import GapSearch, schedule_on
from ditcache_rl.search.paths import path_cost
from ditcache_rl.types import HISTORY
from ditcache_rl.world.simulator import psnr_of
from tests.kit.pacers import cubed_costs, gap_model
from tests.kit.pipelines import PROMPTS

STEPS = 6
CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")


class Halving(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Takes half a step."""

    def step(self, model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().step(model_output / 2, *args, **kwargs)


def search(board: Board) -> GapSearch:
    return GapSearch(board, CASES, rng=np.random.default_rng(0))


def test_rollouts_end_where_the_pipeline_ends_under_the_same_schedule(
    board: Board, tiny_pipe: Any
) -> None:
    made, model, path = search(board), gap_model(4), (0, 2, 3)
    _, errors, numbers = made.rollout([path] * 3, model)
    schedule = schedule_on(path, model, made.sigmas)
    call = board.call | {"output_type": "latent"}

    for error, number in zip(errors, numbers, strict=True):
        reference = _latents(tiny_pipe, CASES[number], call)
        with BlockRunner(tiny_pipe, StaticSchedule(schedule), TieredCache(), blocks="transformer"):
            ours = _latents(tiny_pipe, CASES[number], call)
        assert float((ours - reference).double().square().mean()) == pytest.approx(error, rel=1e-3)


def _latents(pipe: Any, case: Case, call: dict[str, Any]) -> torch.Tensor:
    found: torch.Tensor = pipe(
        case.prompt,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(case.seed),
        **call,
    ).images
    return found


def test_fitted_coefficients_leave_less_than_a_line_does(board: Board) -> None:
    made = search(board)
    model = made.fit(rounds=2, paths=24)
    paths = shaken_paths(fitted_gap_costs(made.products()), 40, np.random.default_rng(5))
    paths = [path for path in paths if len(path) < STEPS]

    errors = [made.rollout(paths, one)[1] for one in (gap_model(), model)]

    assert np.log(errors[1]).mean() < np.log(errors[0]).mean()


def test_costs_are_scaled_to_the_images_that_were_drawn(board: Board) -> None:
    products = search(board).products()
    base, paths = fitted_gap_costs(products), [(0, 2), (0, 3), (0, 1, 4), (0, 2, 4)]
    psnr_db = psnr_of(7.0 * np.array([path_cost(base, path) for path in paths]))

    np.testing.assert_allclose(fit_costs(products, paths, psnr_db), 7.0 * base, rtol=1e-6)


def test_shaken_paths_are_paths() -> None:
    for path in shaken_paths(cubed_costs(12), 50, np.random.default_rng(1)):
        assert path[0] == 0
        assert list(path) == sorted(set(path))
        assert path[-1] < 12


def test_a_schedule_on_a_path_has_coefficients_where_it_does_not_compute(board: Board) -> None:
    schedule = schedule_on((0, 2, 3), gap_model(), search(board).sigmas)

    assert schedule.path == (0, 2, 3)
    assert schedule.coefficients is not None
    assert schedule.coefficients.shape == (STEPS, HISTORY)
    assert np.isfinite(schedule.coefficients).all(axis=1).tolist() == [
        step not in (0, 2, 3) for step in range(STEPS)
    ]


def test_pipelines_whose_gaps_are_no_single_update_are_refused(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedModelError, match="as a whole"):
        GapSearch(
            Board(tiny_pipe, STEPS, sites=2, call=tiny_call), CASES, rng=np.random.default_rng(0)
        )
    plain = tiny_pipe.scheduler
    tiny_pipe.scheduler = Halving.from_config(plain.config)
    try:
        board = Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")
        with pytest.raises(UnsupportedModelError, match="noise level"):
            search(board)
    finally:
        tiny_pipe.scheduler = plain
