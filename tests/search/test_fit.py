import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.search import GapFitter
from ditcache_rl.search.climb import climb_paths
from ditcache_rl.search.equations import normal_equations
from ditcache_rl.solver import SolverRunner
from ditcache_rl.types import HISTORY, Floats, Mode
from tests.kit.boards import ZooBoard, with_replicas
from tests.kit.pipelines import (
    GUIDANCE,
    PROMPTS,
    assert_close,
    build_tiny_pipe,
    draw,
    draw_under,
)

STEPS = 6
CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
PATHS = [(0,), (0, 3), (0, 2, 4), (0, 1, 2, 3), (0, 2, 3, 5)]


@pytest.fixture(scope="module")
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")


@pytest.fixture(scope="module")
def fitter(board: Board) -> GapFitter:
    return GapFitter(board, CASES)


@torch.no_grad()
def drawn_by_hand(board: Board, path: ComputePath, coefficients: Floats) -> Tensor:
    """Run the loop with explicit sums in place of the steps that are estimated."""
    with Replay(board, CASES) as replay:
        latents, outputs = replay.start(), list[Tensor]()
        for step in range(board.steps):
            if step in path:
                outputs.insert(0, replay.compute(step, latents)[0])
                output = outputs[0]
            else:
                output = sum(
                    (c * o for c, o in zip(coefficients[step].tolist(), outputs, strict=False)),
                    torch.zeros_like(latents),
                )
            latents = replay.advance(step, output, latents)
    return latents


def loss(latents: Tensor, exact: Tensor) -> float:
    """Return the mean logarithm of the squared error."""
    return float((latents - exact).flatten(1).double().square().mean(dim=1).log().mean())


@pytest.mark.parametrize("path", PATHS)
def test_a_runner_draws_what_the_coefficients_say(
    board: Board, fitter: GapFitter, path: ComputePath, tiny_pipe: Any
) -> None:
    schedule = fitter.fit(path)
    call: dict[str, Any] = {"prompts": PROMPTS, "seeds": (0, 1), "steps": STEPS}

    latents, log = draw_under(tiny_pipe, StaticSchedule(schedule), blocks="transformer", **call)

    assert_close(latents, drawn_by_hand(board, path, fitter.coefficients(path)))
    np.testing.assert_array_equal(log.modes[:, 0], schedule.modes)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_a_fit_is_the_schedule_on_its_path_with_the_coefficients(
    fitter: GapFitter, path: ComputePath, together: bool
) -> None:
    schedule = fitter.fit(path, together=together)

    coefficients = fitter.coefficients(path, together=together)
    assert schedule == Schedule.on_path(path, STEPS, coefficients)


@pytest.mark.parametrize("path", PATHS)
def test_fitted_coefficients_err_less_than_newtons(
    board: Board, fitter: GapFitter, path: ComputePath, tiny_pipe: Any
) -> None:
    call: dict[str, Any] = {"prompts": PROMPTS, "seeds": (0, 1), "steps": STEPS}
    exact = draw(tiny_pipe, **call)
    modes = np.minimum(Schedule.on_path(path, STEPS).modes, Mode.FORECAST1)
    newton, _ = draw_under(tiny_pipe, StaticSchedule.of(modes), blocks="transformer", **call)

    fitted = drawn_by_hand(board, path, fitter.coefficients(path))

    assert loss(fitted, exact) < loss(newton, exact)
    assert loss(fitted, exact) <= fitter.error(path) + 1e-6, "the last fit only improves"


@pytest.mark.parametrize("path", PATHS)
def test_the_error_is_that_of_gaps_that_are_fitted_one_by_one(
    board: Board, fitter: GapFitter, path: ComputePath, tiny_pipe: Any
) -> None:
    exact = draw(tiny_pipe, PROMPTS, seeds=(0, 1), steps=STEPS)

    apart = drawn_by_hand(board, path, fitter.coefficients(path, together=False))

    # Sums of float32 in another order.
    assert loss(apart, exact) == pytest.approx(fitter.error(path), abs=1e-3)


@given(st.lists(st.floats(0.01, 100.0), min_size=3, max_size=3))
def test_a_case_whose_errors_are_larger_counts_as_any_other(scales: list[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    effect, wrong = (
        torch.randn(3, 5, 2, generator=generator),
        torch.randn(3, 5, generator=generator),
    )
    larger = torch.tensor(scales)[:, None]

    found = normal_equations((effect * larger[..., None]).double(), (wrong * larger).double())

    for side, same in zip(found, normal_equations(effect.double(), wrong.double()), strict=True):
        np.testing.assert_allclose(side, same, rtol=1e-5)


def test_cases_that_were_recorded_are_not_drawn_again(board: Board, fitter: GapFitter) -> None:
    calls: list[int] = []
    begun = GapFitter(board, CASES[:1])
    embedder = board.pipe.transformer.x_embedder
    hook = embedder.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))

    found = GapFitter(board, CASES, known=[begun])

    hook.remove()
    assert calls == [len(CASES) - 1] * STEPS
    for path in PATHS:
        # Sums of float32 in another order.
        assert found.error(path) == pytest.approx(fitter.error(path), abs=1e-3)


def test_a_crew_fits_what_one_process_does(board: Board, fitter: GapFitter) -> None:
    there = GapFitter(with_replicas(board), CASES)

    for path in PATHS[2:4]:
        np.testing.assert_allclose(
            there.coefficients(path), fitter.coefficients(path), rtol=1e-6, atol=1e-9
        )


def test_replicas_are_told_what_was_recorded_and_record_one_case_themselves(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[tuple[Board, Case]] = []

    class Noted(Replay):
        def __init__(self, board: Board, cases: Sequence[Case]) -> None:
            recorded.extend((board, case) for case in cases)
            super().__init__(board, cases)

    monkeypatch.setattr("ditcache_rl.search.parts.Replay", Noted)
    there = GapFitter(with_replicas(board), CASES)
    few = GapFitter(there.board, CASES[:1])
    recorded.clear()

    for fitter in (few, there, few):
        assert all(map(np.isfinite, fitter.errors(PATHS)))

    assert {case for _, case in recorded} == {CASES[0]}
    assert there.board not in [where for where, _ in recorded]


def test_a_path_scores_the_same_whatever_was_scored_before(board: Board) -> None:
    fresh = {path: GapFitter(board, CASES).error(path) for path in PATHS}
    shared = GapFitter(board, CASES)

    for path in [*PATHS, *reversed(PATHS)]:
        assert shared.error(path) == fresh[path]


def test_coefficients_stand_at_estimated_steps_and_use_what_is_known(fitter: GapFitter) -> None:
    for path in PATHS:
        coefficients = fitter.coefficients(path)
        for step in range(STEPS):
            known = sum(computed < step for computed in path)
            if step in path:
                assert np.isnan(coefficients[step]).all()
            else:
                assert np.isfinite(coefficients[step]).all()
                assert not coefficients[step, min(known, HISTORY) :].any()


def test_a_climb_over_fitted_errors_finds_the_best_of_few(fitter: GapFitter) -> None:
    every: list[ComputePath] = [(0, *rest) for rest in itertools.combinations(range(1, STEPS), 2)]
    errors = {path: fitter.error(path) for path in every}

    found = climb_paths(
        fitter.errors, [(0, 1, 2)], STEPS, evaluations=len(every), rng=np.random.default_rng(0)
    )

    assert found == min(errors, key=errors.__getitem__)


class Remembering(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Steps along the mean of the last two outputs."""

    def step(self, model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        before, self.before = getattr(self, "before", model_output), model_output
        return super().step((model_output + before) / 2, *args, **kwargs)


def test_a_sampler_with_a_memory_is_refused(tiny_call: dict[str, Any]) -> None:
    pipe = build_tiny_pipe()
    pipe.scheduler = Remembering.from_config(pipe.scheduler.config)
    board = Board(pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")

    with pytest.raises(UnsupportedModelError, match="remembers its last steps"):
        GapFitter(board, [CASES[0], Case(PROMPTS[1], 7)])
    assert not GapFitter.is_possible(board, CASES)


@pytest.mark.parametrize(("sites", "blocks"), [(2, None), (1, None)])
def test_blocks_that_are_cached_apart_are_refused(
    tiny_pipe: Any, tiny_call: dict[str, Any], sites: int, blocks: str | None
) -> None:
    board = Board(tiny_pipe, STEPS, sites=sites, call=tiny_call, blocks=blocks)

    with pytest.raises(UnsupportedModelError, match="cached as a whole"):
        GapFitter(board, CASES)
    assert not GapFitter.is_possible(board, CASES)


def test_forecasts_of_a_denoiser_that_is_cached_as_a_whole_can_be_fitted(board: Board) -> None:
    assert GapFitter.is_possible(board, CASES)


#: One doubled batch, two calls a step, two calls whose sum is rescaled, and latents by position
#: under a sampler that keeps a share of them.
GUIDED = ("StableDiffusion3Pipeline", "WanPipeline", "QwenImagePipeline", "PixArtSigmaPipeline")


@pytest.mark.parametrize("name", GUIDED)
def test_guided_forecasts_reproduce_what_they_were_fitted_to(name: str) -> None:
    board, path = ZooBoard(name, STEPS), (0, 2, 3)
    fitter = GapFitter(board, CASES)
    exact = board.draw(CASES).images

    drawn = board.draw(CASES, StaticSchedule(fitter.fit(path, together=False))).images

    # Sums of float32 in another order.
    assert loss(drawn, exact) == pytest.approx(fitter.error(path), abs=1e-3)


@pytest.mark.parametrize("name", GUIDED)
def test_guided_forecasts_err_less_than_newtons_on_cases_held_out(name: str) -> None:
    board, path = ZooBoard(name, STEPS), (0, 2, 3)
    schedule = GapFitter(board, [Case("", seed) for seed in range(4)]).fit(path)
    held_out = [Case("", seed) for seed in range(4, 8)]
    exact = board.draw(held_out).images

    fitted = board.draw(held_out, StaticSchedule(schedule)).images

    newton = board.draw(held_out, StaticSchedule.of(np.minimum(schedule.modes, 2))).images
    assert loss(fitted, exact) < loss(newton, exact)


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "WanPipeline"])
def test_guided_forecasts_collapse_into_the_same_updates(name: str) -> None:
    board = ZooBoard(name, STEPS)
    controller = StaticSchedule(GapFitter(board, CASES).fit((0, 2, 3)))

    stepped = board.draw(CASES, controller).images

    assert_close(board.draw(CASES, controller, runner=SolverRunner).images, stepped)


def test_two_calls_a_step_of_the_default_are_fitted(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    board = Board(tiny_pipe, STEPS, sites=1, call=tiny_call | GUIDANCE, blocks="transformer")
    fitter = GapFitter(board, CASES)
    call: dict[str, Any] = {"prompts": PROMPTS, "seeds": (0, 1), "steps": STEPS}
    call |= {**GUIDANCE, "negative_prompt": [PROMPTS[1]] * 2}
    schedule = fitter.fit((0, 2, 4), together=False)

    latents, log = draw_under(tiny_pipe, StaticSchedule(schedule), blocks="transformer", **call)

    error = loss(latents, draw(tiny_pipe, **call))
    assert error == pytest.approx(fitter.error((0, 2, 4)), abs=1e-3)
    assert log.branches == 2
