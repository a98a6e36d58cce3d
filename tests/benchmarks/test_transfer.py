from typing import Any

import pytest

from benchmarks.learned.adapted import CANDIDATES, ENVIRONMENTS, Meter, adapted
from ditcache_rl.bench import Board, Case
from ditcache_rl.config import load_env
from ditcache_rl.schedules import Schedule
from ditcache_rl.search import GapFitter
from tests.kit.boards import ZooBoard
from tests.kit.pipelines import PROMPTS, STEPS

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, 6, sites=1, call=tiny_call, blocks="transformer")


def test_an_episode_is_an_image_of_full_compute(board: Board) -> None:
    meter = Meter(board, CASES[0])
    for cases in (CASES, CASES[:1]):
        with meter:
            board.draw(cases)

        board.draw(CASES)
        assert meter.episodes == len(cases)


# Guidance in one doubled batch, and in two calls a step.
@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "QwenImagePipeline"])
def test_an_image_of_two_guidance_branches_is_one_episode(name: str) -> None:
    board = ZooBoard(name, STEPS)
    rows = list[int]()
    denoiser = board.pipe.transformer
    handle = denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )

    with Meter(board, CASES[0]) as meter:
        board.draw(CASES)

    handle.remove()
    assert sum(rows) == (1 + len(CASES)) * 2 * STEPS, "the zoo draws with guidance"
    assert meter.episodes == len(CASES)


def test_an_environment_may_be_of_another_file() -> None:
    assert {new.env for new in ENVIRONMENTS.values()} == {"shapes", "shapes-guided"}
    for new in ENVIRONMENTS.values():
        assert new.steps > new.computed, "what is carried computes less than everything"
        assert load_env(new.env).pipeline.source == f"builtin:{new.env}"


def test_an_adaptation_counts_references_candidates_and_fits(board: Board) -> None:
    asked: list[Schedule] = []

    def score(schedule: Schedule) -> float:
        asked.append(schedule)
        return float(len(asked))

    meter = Meter(board, CASES[0])
    points = adapted(board, meter, CASES, [Schedule.on_path((0, 2), 6)], 2, score)

    assert [point.candidates for point in points] == [0, *CANDIDATES]
    assert points[0].episodes == 0
    assert points[1].episodes > len(CASES) * (1 + 2 / board.steps)  # and the fit is yet to come
    with meter:
        fitter = GapFitter(board, CASES)
        fitter.error((0, 2))
        fitter.fit((0, 2))
    assert points[1].episodes == meter.episodes
    assert asked[1].coefficients is not None
