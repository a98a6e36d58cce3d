from typing import Any

import numpy as np
import pytest

from benchmarks.transfer import CANDIDATES, Known, Meter, adapted, carry
from ditcache_rl.control.network import PlanRow
from ditcache_rl.instrument.forecast import newton_weights
from ditcache_rl.search import Board, Case, Rollouts
from ditcache_rl.search.nodes import row_of, weights_of
from ditcache_rl.types import HISTORY, Floats
from tests.pipelines import PROMPTS

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


def levels(steps: int, shift: float = 1.5) -> Floats:
    """Noise levels of a flow-matching sampler."""
    sigmas = np.linspace(1, 0, steps + 1)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def fitted_row(nodes: tuple[int, ...], steps: int) -> tuple[PlanRow, Floats]:
    """A schedule, and what was added to the weights of its gaps."""
    extra = np.random.default_rng(0).normal(size=(len(nodes), HISTORY))
    extra[0, 1:] = extra[1, 2:] = 0  # nothing older is known there
    return PlanRow(row_of(nodes, steps), weights_of(nodes, levels(steps), extra)), extra


def test_the_same_steps_carry_fitted_forecasts_over_unchanged() -> None:
    row, _ = fitted_row((0, 2, 9, 10, 20, 27), 28)

    nodes, weights = carry(row, levels(28), levels(28))

    assert nodes == (0, 2, 9, 10, 20, 27)
    np.testing.assert_allclose(weights, row.weights, atol=1e-12)


def test_other_steps_get_as_many_computes_and_what_was_fitted_to_their_gaps() -> None:
    row, extra = fitted_row((0, 6, 12, 24), 28)

    nodes, weights = carry(row, levels(28), levels(14))

    # Half as many steps at the same shift: every second noise level.
    assert nodes == (0, 3, 6, 12)
    line = newton_weights(levels(14)[[6, 3]], float(levels(14)[8]), 1)
    np.testing.assert_allclose(weights[8], line + extra[2], atol=1e-12)


def test_steps_that_fall_together_are_told_apart() -> None:
    row, _ = fitted_row((0, 1, 2, 3, 20), 28)

    nodes, _ = carry(row, levels(28), levels(8))

    assert len(nodes) == 5
    assert nodes[0] == 0


def test_a_schedule_without_fits_is_carried_with_newtons_weights() -> None:
    bare = PlanRow.unfitted(row_of((0, 6, 12), 28))

    _, weights = carry(bare, levels(28), levels(14))

    plain = weights_of((0, 3, 6), levels(14), np.zeros((3, HISTORY)))
    np.testing.assert_array_equal(weights, plain)


@pytest.fixture(scope="module")
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, 6, sites=1, call=tiny_call, blocks="transformer")


def test_an_episode_is_an_image_of_full_compute(board: Board) -> None:
    with Meter(board) as meter:
        board.draw(CASES)

    board.draw(CASES)
    assert meter.episodes == len(CASES)


def test_an_adaptation_counts_references_candidates_and_fits(board: Board) -> None:
    asked: list[Known] = []

    def score(known: Known) -> float:
        asked.append(known)
        return float(len(asked))

    points = adapted(board, CASES, [Known((0, 2), None)], score)

    assert [point.candidates for point in points] == [0, *CANDIDATES]
    assert points[0].episodes == 0
    assert points[1].episodes > len(CASES) * (1 + 2 / board.steps)  # and the fit is yet to come
    with Meter(board) as meter:
        rollouts = Rollouts(board, CASES)
        rollouts.error((0, 2))
        rollouts.weights((0, 2))
    assert points[1].episodes == meter.episodes
    assert asked[1].weights is not None
