from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.cache import TieredCache
from ditcache_rl.config import load_env
from ditcache_rl.control import AllCompute, EveryK, StaticSchedule
from ditcache_rl.errors import StateError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.search import ClimbSettings, search_plan, spaced_plan
from ditcache_rl.types import Mode, Modes, Tier
from tests.kit.environment import PROMPTS, tiny_config

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS["train"])]


@pytest.fixture
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, 4, sites=1, call=tiny_call, rows=2)


def schedule(*modes: Mode) -> Modes:
    return np.array(modes, dtype=np.int8)[:, None]


FULL = schedule(*[Mode.COMPUTE] * 4)
HALF = schedule(Mode.COMPUTE, Mode.REUSE, Mode.COMPUTE, Mode.FORECAST1)
LEAST = schedule(Mode.COMPUTE, Mode.REUSE, Mode.REUSE, Mode.REUSE)


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

    images, log = tiered.draw_under(StaticSchedule.of(HALF), CASES[:2])

    expected, wished = board.draw_under(StaticSchedule.of(HALF), CASES[:2])
    assert torch.equal(images, expected)
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
    torch.testing.assert_close(references[2:], board.draw(CASES[2:]))


def test_the_log_tells_what_was_done(board: Board) -> None:
    images, log = board.draw_under(EveryK(2), CASES[:2])

    assert images.shape == (2, 3, 64, 64)
    assert log.compute_share.tolist() == [0.5, 0.5]


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
    assert "forward" not in tiny_pipe.transformer.__dict__


def test_a_search_on_real_images_is_no_worse_than_its_start(board: Board) -> None:
    settings = ClimbSettings(evaluations=4, psnr_weight=1.0, ssim_weight=1.0)
    rng = np.random.default_rng(0)

    plan = search_plan(board, CASES[:2], budgets=[2], settings=settings, rng=rng)

    rows = [plan.patterns[2], spaced_plan(4, 1).patterns[2]]
    found, spaced = (
        board.score(CASES[:2], [np.array(row, dtype=np.int8)[:, None]] * 2) for row in rows
    )
    np.testing.assert_allclose(
        plan.quality[2], [found.psnr_db.mean(), found.ssim.mean()], atol=1e-3
    )
    total = [q.psnr_db.mean() / 10 + q.ssim.mean() for q in (found, spaced)]
    assert total[0] >= total[1] - 1e-6


def test_every_image_of_a_prompt_has_a_seed_of_its_own() -> None:
    config = load_env("shapes")

    cases = cases_of(config, "train", images=3)

    assert cases[::3] == cases_of(config, "train")
    assert len({case.seed for case in cases}) == len(cases)
