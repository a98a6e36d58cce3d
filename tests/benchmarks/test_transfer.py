from typing import Any

import pytest

from benchmarks.learned.adapted import CANDIDATES, Known, Meter, adapted
from ditcache_rl.bench import Board, Case
from ditcache_rl.search import Rollouts
from tests.kit.pipelines import PROMPTS

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


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

    points = adapted(board, CASES, [Known((0, 2), None)], 2, score)

    assert [point.candidates for point in points] == [0, *CANDIDATES]
    assert points[0].episodes == 0
    assert points[1].episodes > len(CASES) * (1 + 2 / board.steps)  # and the fit is yet to come
    with Meter(board) as meter:
        rollouts = Rollouts(board, CASES)
        rollouts.error((0, 2))
        rollouts.weights((0, 2))
    assert points[1].episodes == meter.episodes
    assert asked[1].weights is not None
