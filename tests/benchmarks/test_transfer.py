from typing import Any

import pytest

from benchmarks.learned.adapted import CANDIDATES, Meter, adapted
from ditcache_rl.bench import Board, Case
from ditcache_rl.schedules import Schedule
from ditcache_rl.search import GapFitter
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
    asked: list[Schedule] = []

    def score(schedule: Schedule) -> float:
        asked.append(schedule)
        return float(len(asked))

    points = adapted(board, CASES, [Schedule.on_path((0, 2), 6)], 2, score)

    assert [point.candidates for point in points] == [0, *CANDIDATES]
    assert points[0].episodes == 0
    assert points[1].episodes > len(CASES) * (1 + 2 / board.steps)  # and the fit is yet to come
    with Meter(board) as meter:
        fitter = GapFitter(board, CASES)
        fitter.error((0, 2))
        fitter.fit((0, 2))
    assert points[1].episodes == meter.episodes
    assert asked[1].coefficients is not None
