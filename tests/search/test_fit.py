import itertools
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
from ditcache_rl.schedules.forecast import Nodes
from ditcache_rl.search import METHODS, Calibration, Problem, Rollouts, Trials, Weights
from ditcache_rl.search.fit import climb_nodes, normal_equations
from ditcache_rl.types import HISTORY, Floats, Mode, Modes
from tests.kit.pipelines import PROMPTS, assert_close, build_tiny_pipe, draw, draw_under

STEPS = 6
CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
NODES = [(0,), (0, 3), (0, 2, 4), (0, 1, 2, 3), (0, 2, 3, 5)]


@pytest.fixture(scope="module")
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")


@pytest.fixture(scope="module")
def rollouts(board: Board) -> Rollouts:
    return Rollouts(board, CASES)


def modes_of(nodes: Nodes) -> Modes:
    """Use all that is known between the computed steps, as a fitted schedule does."""
    known = np.minimum(np.isin(np.arange(STEPS), nodes).cumsum(), HISTORY)
    return np.where(np.isin(np.arange(STEPS), nodes), 0, known).astype(np.int8)[:, None]


@torch.no_grad()
def drawn_by_hand(board: Board, nodes: Nodes, weights: Floats) -> Tensor:
    """Run the loop with explicit sums in place of the steps that are skipped."""
    with Replay(board, CASES) as replay:
        latents, outputs = replay.start(), list[Tensor]()
        for step in range(board.steps):
            if step in nodes:
                outputs.insert(0, replay.compute(step, latents)[0])
                output = outputs[0]
            else:
                output = sum(
                    (w * o for w, o in zip(weights[step].tolist(), outputs, strict=False)),
                    torch.zeros_like(latents),
                )
            latents = replay.advance(step, output, latents)
    return latents


def loss(latents: Tensor, exact: Tensor) -> float:
    """Return the mean logarithm of the squared error."""
    return float((latents - exact).flatten(1).double().square().mean(dim=1).log().mean())


@pytest.mark.parametrize("nodes", NODES)
def test_a_runner_draws_what_the_weights_say(
    board: Board, rollouts: Rollouts, nodes: Nodes, tiny_pipe: Any
) -> None:
    weights = rollouts.weights(nodes)
    controller = StaticSchedule(modes_of(nodes), weights)
    call: dict[str, Any] = {"prompts": PROMPTS, "seeds": (0, 1), "steps": STEPS}

    latents, log = draw_under(tiny_pipe, controller, blocks="transformer", **call)

    assert_close(latents, drawn_by_hand(board, nodes, weights))
    np.testing.assert_array_equal(log.modes[:, 0], modes_of(nodes))


@pytest.mark.parametrize("nodes", NODES)
def test_fitted_weights_err_less_than_newtons(
    board: Board, rollouts: Rollouts, nodes: Nodes, tiny_pipe: Any
) -> None:
    call: dict[str, Any] = {"prompts": PROMPTS, "seeds": (0, 1), "steps": STEPS}
    exact = draw(tiny_pipe, **call)
    modes = np.minimum(modes_of(nodes), Mode.FORECAST1)
    newton, _ = draw_under(tiny_pipe, StaticSchedule(modes), blocks="transformer", **call)

    fitted = drawn_by_hand(board, nodes, rollouts.weights(nodes))

    assert loss(fitted, exact) < loss(newton, exact)
    assert loss(fitted, exact) <= rollouts.error(nodes) + 1e-6, "the last fit only improves"


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


def test_a_schedule_scores_the_same_whatever_was_scored_before(board: Board) -> None:
    fresh = {nodes: Rollouts(board, CASES).error(nodes) for nodes in NODES}
    shared = Rollouts(board, CASES)

    for nodes in [*NODES, *reversed(NODES)]:
        assert shared.error(nodes) == fresh[nodes]


def test_weights_stand_at_skipped_steps_and_use_what_is_known(rollouts: Rollouts) -> None:
    for nodes in NODES:
        weights = rollouts.weights(nodes)
        for step in range(STEPS):
            known = sum(node < step for node in nodes)
            if step in nodes:
                assert np.isnan(weights[step]).all()
            else:
                assert np.isfinite(weights[step]).all()
                assert not weights[step, min(known, HISTORY) :].any()


def test_a_fit_may_aim_at_the_end_of_a_finer_trajectory(
    board: Board, rollouts: Rollouts, tiny_call: dict[str, Any]
) -> None:
    finer = Board(board.pipe, 4 * STEPS, sites=1, call=tiny_call, blocks="transformer")
    truth = drawn_by_hand(finer, tuple(range(finer.steps)), np.zeros((0, HISTORY)))
    nodes = (0, 2, 4)

    aimed = drawn_by_hand(board, nodes, Rollouts(board, CASES, finer=finer).weights(nodes))

    plain = drawn_by_hand(board, nodes, rollouts.weights(nodes))
    assert loss(aimed, truth) < loss(plain, truth) - 0.1
    assert not torch.allclose(aimed, plain)


def test_a_climb_finds_the_best_of_few(rollouts: Rollouts) -> None:
    every: list[Nodes] = [(0, *rest) for rest in itertools.combinations(range(1, STEPS), 2)]
    errors = {nodes: rollouts.error(nodes) for nodes in every}
    asked: dict[Nodes, float] = {}

    found = climb_nodes(
        rollouts,
        [(0, 1, 2)],
        evaluations=len(every),
        rng=np.random.default_rng(0),
        on_evaluation=asked.__setitem__,
    )

    assert found == min(errors, key=errors.__getitem__)
    assert asked == {nodes: errors[nodes] for nodes in asked}


def test_a_climb_stops_after_its_evaluations(rollouts: Rollouts) -> None:
    asked: dict[Nodes, float] = {}

    climb_nodes(
        rollouts,
        [(0, 3), (0, 2)],
        evaluations=3,
        rng=np.random.default_rng(0),
        on_evaluation=asked.__setitem__,
    )

    assert len(asked) == 3


def test_the_search_gives_every_budget_its_schedule_and_score(board: Board) -> None:
    trials, calibration = Trials(board, CASES, Weights()), Calibration(board, CASES)

    found = METHODS["fitted"](Problem(trials, [2, 3], 8, np.random.default_rng(0), calibration))

    assert list(found) == [2, 3]
    for budget, (row, score, weights) in found.items():
        assert weights is not None
        assert int((row == Mode.COMPUTE).sum()) == budget
        assert row[0] == Mode.COMPUTE
        modes = trials.space.modes(row)
        real = board.score(CASES, [modes] * len(CASES), [weights] * len(CASES))
        assert score.psnr_db == pytest.approx(real.psnr_db.mean(), abs=1e-2)


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
        Rollouts(board, [CASES[0], Case(PROMPTS[1], 7)])


@pytest.mark.parametrize(("sites", "blocks"), [(2, None), (1, None)])
def test_blocks_that_are_cached_apart_are_refused(
    tiny_pipe: Any, tiny_call: dict[str, Any], sites: int, blocks: str | None
) -> None:
    board = Board(tiny_pipe, STEPS, sites=sites, call=tiny_call, blocks=blocks)

    with pytest.raises(UnsupportedModelError, match="cached as a whole"):
        Rollouts(board, CASES)
