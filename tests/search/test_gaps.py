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
from ditcache_rl.schedules.gaps import GapModel, schedule_on
from ditcache_rl.schedules.placement import path_cost
from ditcache_rl.search.calibrate import fitted_gap_costs
from ditcache_rl.search.gap_costs import fit_costs, random_paths, shaken_paths
from ditcache_rl.search.gap_products import GapProducts, gaps_of
from ditcache_rl.search.gaps import GapSearch
from ditcache_rl.types import HISTORY
from ditcache_rl.world.simulator import psnr_of
from tests.kit.boards import ZooBoard, with_replicas
from tests.kit.pacers import cubed_costs, gap_model
from tests.kit.pipelines import GUIDANCE, PROMPTS

STEPS = 6
CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
#: The first case that a search draws.
DRAWN = int(np.random.default_rng(0).integers(len(CASES)))


@pytest.fixture(scope="module")
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")


class Halving(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Takes half a step."""

    def step(self, model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().step(model_output / 2, *args, **kwargs)


def search(board: Board) -> GapSearch:
    return GapSearch(board, CASES, rng=np.random.default_rng(0))


@pytest.mark.parametrize("guidance", [{}, GUIDANCE])
def test_paths_end_where_the_pipeline_ends_under_the_same_schedule(
    tiny_pipe: Any, tiny_call: dict[str, Any], guidance: dict[str, Any]
) -> None:
    board = Board(tiny_pipe, STEPS, sites=1, call=tiny_call | guidance, blocks="transformer")
    made, model, path = search(board), gap_model(4), (0, 2, 3)
    schedule = schedule_on(path, model, made.sigmas)
    call = board.call | {"output_type": "latent"}

    for number in (0, 1):
        reference = _latents(tiny_pipe, CASES[number], call)
        with BlockRunner(tiny_pipe, StaticSchedule(schedule), TieredCache(), blocks="transformer"):
            ours = _latents(tiny_pipe, CASES[number], call)
        wrong, _ = made.follow(path, number, model)
        torch.testing.assert_close(
            wrong.float(), (reference - ours).flatten(), rtol=1e-3, atol=1e-5
        )


def test_what_directions_do_tells_the_end_of_a_path_under_another_model(board: Board) -> None:
    made, path = search(board), (0, 2, 4)
    known, stops = gaps_of(path, STEPS)
    begun, other = gap_model(), _bent(gap_model(), 1e-3)
    moved = torch.as_tensor(
        other.along(known, stops, made.sigmas) - begun.along(known, stops, made.sigmas)
    )
    wrong, effects = made.follow(path, 1, begun)
    after, _ = made.follow(path, 1, other)

    told = wrong - torch.einsum("gh,ghf->f", moved, effects)
    # To first order: what is left over is of the second.
    assert float((told - after).norm()) < 0.05 * float((after - wrong).norm())


def _bent(model: GapModel, by: float) -> GapModel:
    *inner, (weight, bias) = model.layers
    return model._replace(layers=(*inner, (weight, bias + by * np.array([1.0, -2.0, 0.5]))))


def test_products_tell_the_error_of_the_path_they_were_drawn_on(board: Board) -> None:
    made, model, path = search(board), gap_model(4), (0, 2, 3)
    (told,) = made.tell([path], model)
    wrong, _ = made.follow(path, DRAWN, model)

    along = model.along(told.known[0], told.stops[0], made.sigmas)
    assert told.errors(along[None])[0] == pytest.approx(float(wrong @ wrong), rel=1e-6)


def test_a_crew_tells_of_paths_what_one_process_does(board: Board) -> None:
    paths, model = [(0, 2, 3), (0, 3), (0, 1, 4)], gap_model(4)

    here = GapProducts.joined([*search(board).tell(paths, model)])
    there = GapProducts.joined([*search(with_replicas(board)).tell(paths, model)])

    for own, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other, own, rtol=1e-6, atol=1e-12)


def test_of_a_batch_a_crew_is_sent_the_case_that_it_follows(board: Board) -> None:
    asked = search(board)._asked((0, 2), 1, gap_model(4))

    for end in (asked.start, asked.target):
        assert end.untyped_storage().nbytes() == end.nbytes


def test_gaps_that_were_added_move_nothing(board: Board) -> None:
    made, model = search(board), gap_model(4)
    told = [*made.tell([(0, 3), (0, 2, 3, 4)], model)]
    along = np.random.default_rng(0).standard_normal((2, 4, HISTORY))

    joined = GapProducts.joined(told).errors(along)

    np.testing.assert_allclose(joined[:1], told[0].errors(along[:1, :2]))
    np.testing.assert_allclose(joined[1:], told[1].errors(along[1:]))


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

    def left(one: GapModel) -> float:
        wrong = [made.follow(path, case, one)[0] for path in paths for case in (0, 1)]
        return float(torch.stack(wrong).square().sum(dim=1).log().mean())

    assert left(model) < left(gap_model())


def test_costs_are_scaled_to_the_images_that_were_drawn(board: Board) -> None:
    products = search(board).products()
    base, paths = fitted_gap_costs(products), [(0, 2), (0, 3), (0, 1, 4), (0, 2, 4)]
    psnr_db = psnr_of(7.0 * np.array([path_cost(base, path) for path in paths]))

    np.testing.assert_allclose(fit_costs(products, paths, psnr_db), 7.0 * base, rtol=1e-6)


def test_drawn_paths_are_paths() -> None:
    rng = np.random.default_rng(1)
    shaken = shaken_paths(cubed_costs(12), 50, rng)
    others = random_paths(12, 50, rng, longest=5)

    assert {len(path) for path in others} == {2, 3, 4, 5}
    for path in shaken + others:
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


def test_guidance_that_rescales_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="rescales"):
        search(ZooBoard("QwenImagePipeline", STEPS))
