from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.bench import Board, Case, cases_of, draw, named_computes
from ditcache_rl.cache import TieredCache
from ditcache_rl.config import load_env
from ditcache_rl.control import AllCompute, StaticSchedule
from ditcache_rl.errors import StateError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.schedules import Objective, Schedule, spaced
from ditcache_rl.search import METHODS, Calibration, Problem, Trials
from ditcache_rl.types import HISTORY, Tier
from tests.kit.environment import PROMPTS, tiny_config

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS["train"])]


@pytest.fixture
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, 4, sites=1, call=tiny_call, rows=2)


FULL, HALF, LEAST = (Schedule.from_text(text) for text in ("CCCC", "CRC1", "CRRR"))


def test_full_compute_is_the_reference(board: Board) -> None:
    quality = board.score(CASES[:2], [FULL, FULL])

    np.testing.assert_array_equal(quality.psnr_db, [60.0, 60.0])
    np.testing.assert_allclose(quality.ssim, [1.0, 1.0])


def test_rows_are_scored_as_if_they_were_alone(board: Board) -> None:
    cases, schedules = [*CASES, CASES[0]], [HALF, LEAST, FULL, LEAST]

    together = board.score(cases, schedules)

    alone = [board.score([c], [s]) for c, s in zip(cases, schedules, strict=True)]
    # Batches of other sizes sum in another order.
    psnr, ssim = (np.concatenate(column) for column in zip(*alone, strict=True))
    np.testing.assert_allclose(together.psnr_db, psnr, atol=1e-2)
    np.testing.assert_allclose(together.ssim, ssim, atol=1e-4)
    assert together.psnr_db[2] > together.psnr_db[0] > together.psnr_db[1]


def test_tiers_that_an_environment_names_change_no_image(
    board: Board, tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    entry, folder = 76 * 32 * 4, tmp_path / "cache"
    tiers = f', host_bytes = "{2 * entry}", disk_bytes = "1MiB", cache_dir = "{folder}"'
    config = tiny_config(tmp_path, tiny_call, rows=2, device_bytes=f"{entry}", tiers=tiers)
    tiered = Board.of(config, tiny_pipe, steps=4)

    images, log, _ = tiered.draw(CASES[:2], StaticSchedule(HALF))

    expected, wished, _ = board.draw(CASES[:2], StaticSchedule(HALF))
    assert torch.equal(images, expected)
    assert log is not None
    assert wished is not None
    assert np.array_equal(log.modes, wished.modes)
    assert set(tiered.cache.slower) == {Tier.HOST, Tier.DISK}
    assert tiered.cache.stats.host_hits + tiered.cache.stats.disk_hits > 0
    assert list(folder.iterdir()) == []


def test_references_are_drawn_once_and_in_batches(board: Board) -> None:
    heard: list[int] = []

    board.prepare([*CASES, CASES[0]], on_batch=heard.append)
    board.prepare(CASES, on_batch=heard.append)

    assert heard == [2, 1]
    references = board.references(CASES)
    assert references.shape == (3, 3, 64, 64)
    assert 0 <= references.min() <= references.max() <= 1
    torch.testing.assert_close(references[2:], board.draw(CASES[2:]).images)


def test_a_board_draws_what_its_pipeline_does_under_its_call(
    board: Board, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    for controller in (None, StaticSchedule(HALF)):
        drawn = board.draw(CASES[:2], controller)
        expected = draw(tiny_pipe, CASES[:2], controller, steps=4, call=tiny_call)
        assert torch.equal(drawn.images, expected.images)


def test_fitted_coefficients_are_drawn_with(board: Board) -> None:
    coefficients = np.full((4, HISTORY), np.nan)
    coefficients[1] = 1.0, 0.0, 0.0  # as reuse
    coefficients[3] = 0.5, 0.5, 0.0
    fitted = Schedule(HALF.modes, coefficients)

    quality = board.score(CASES[:1] * 2, [HALF, fitted])

    (alone,) = board.judge(board.draw(CASES[:1], StaticSchedule(fitted)).images, CASES[:1]).psnr_db
    assert quality.psnr_db[1] == pytest.approx(alone, abs=1e-2)
    assert quality.psnr_db[1] != pytest.approx(quality.psnr_db[0], abs=1e-2)


def test_references_are_not_drawn_under_a_controller(board: Board, tiny_pipe: Any) -> None:
    board.prepare(CASES[:1])
    with BlockRunner(tiny_pipe, AllCompute(), TieredCache()):
        board.prepare(CASES[:1])
        with pytest.raises(StateError, match="attached"):
            board.prepare(CASES)

    board.prepare(CASES)


def test_noise_levels_are_those_of_the_sampler(board: Board, tiny_pipe: Any) -> None:
    sigmas = board.sigmas()

    assert sigmas.shape == (5,)
    assert (np.diff(sigmas) < 0).all()
    assert sigmas[-1] == 0
    assert board.sigmas() is sigmas, "read once"
    assert "forward" not in tiny_pipe.transformer.__dict__


def test_a_search_on_real_images_is_no_worse_than_its_start(board: Board) -> None:
    trials, calibration = Trials(board, CASES[:2], Objective()), Calibration(board, CASES[:2])
    even = spaced(4, 1, 2)

    table = METHODS["climb"](Problem(trials, [2], 10, np.random.default_rng(0), calibration))

    found, start = (board.score(CASES[:2], [one] * 2) for one in (table[2].schedule, even))
    np.testing.assert_allclose(table[2][1:3], [found.psnr_db.mean(), found.ssim.mean()], atol=1e-3)
    total = [q.psnr_db.mean() / 10 + q.ssim.mean() for q in (found, start)]
    assert total[0] >= total[1] - 1e-6


@pytest.mark.parametrize(
    ("budgets", "sites", "steps", "computes"),
    [
        ((0.25, 0.5, 0.75), 1, 4, [1, 2, 3]),
        ((0.75, 0.25, 0.5), 2, 4, [2, 4, 6]),
        ((0.3, 0.31), 1, 4, [1]),  # 1.2 and 1.24
        ((0.25, 0.5, 1.0), 3, 2, [3, 6]),  # 1.5, 3 and 6: every schedule begins with a whole step
    ],
)
def test_named_budgets_become_computes_of_at_least_one_step(
    tiny_call: dict[str, Any],
    tmp_path: Path,
    budgets: tuple[float, ...],
    sites: int,
    steps: int,
    computes: list[int],
) -> None:
    config = tiny_config(tmp_path, tiny_call, budgets=budgets, sites=sites)

    assert named_computes(config, steps) == computes


def test_every_image_of_a_prompt_has_a_seed_of_its_own() -> None:
    config = load_env("shapes")

    cases = cases_of(config, "train", images=3)

    assert cases[::3] == cases_of(config, "train")
    assert len({case.seed for case in cases}) == len(cases)
