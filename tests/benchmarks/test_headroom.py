import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from benchmarks.harness.play import play, swept
from benchmarks.trees.predictors import auc, predictors
from benchmarks.trees.table import SCHEMA_VERSION, STEPS, Half, Table, decode, read_tables
from benchmarks.trees.tree import tree_schedules
from benchmarks.trees.yardstick import TableBoard, Yardstick
from ditcache_rl.bench import Board, Case
from ditcache_rl.control import EveryK, TeaCache
from ditcache_rl.errors import ArtifactError
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Mode
from tests.kit.environment import PROMPTS

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS["train"])]


@pytest.fixture(scope="module")
def table() -> Table:
    """Three prompts on each side; each has a best schedule of its own."""
    schedules = tree_schedules(STEPS, Mode.FORECAST1)
    rng = np.random.default_rng(0)
    common = rng.uniform(20, 30, len(schedules))
    halves = [
        Half(CASES, np.minimum(common + rng.uniform(0, 5, (len(CASES), len(schedules))), 60))
        for _ in range(2)
    ]
    return Table("forecast", schedules, *halves)


@pytest.fixture(scope="module")
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, STEPS, sites=1, call=tiny_call, rows=2)


def test_the_static_schedule_is_chosen_on_one_half_and_scored_on_the_other(table: Table) -> None:
    for computes in (2, 5, 9):
        yard = Yardstick(table, computes)
        within = [i for i, m in enumerate(table.schedules) if (m == Mode.COMPUTE).sum() == computes]
        best = max(within, key=lambda i: table.choose.psnr_db[:, i].mean())

        assert (yard.schedule.modes[:, 0] == table.schedules[best]).all()
        np.testing.assert_array_equal(yard.static, table.held_out.psnr_db[:, best])
        np.testing.assert_array_equal(yard.oracle, table.held_out.psnr_db[:, within].max(axis=1))
        bound = Yardstick(table, computes, ends=True)
        assert bound.schedule.path[-1] == STEPS - 1
        assert (bound.oracle <= yard.oracle).all()


def test_the_share_of_the_headroom_is_0_for_the_static_schedule_and_1_for_the_oracle(
    table: Table,
) -> None:
    yard, rng = Yardstick(table, 5), np.random.default_rng(0)

    for psnr, expected in ((yard.static, 0.0), (yard.oracle, 1.0)):
        assert yard.share(psnr, rng) == pytest.approx((expected,) * 3)
    halfway = yard.share((yard.static + yard.oracle) / 2, rng)
    assert halfway == pytest.approx((0.5,) * 3)
    assert yard.gain(yard.oracle) == yard.headroom()
    full = Yardstick(table, STEPS)  # a single schedule, so nothing can be gained
    assert full.share(full.static + 1, rng) is None


def test_a_search_on_the_table_sees_what_the_table_says(table: Table) -> None:
    index = [3, 700, 2047]

    scorer = TableBoard(table, np.linspace(1, 0, STEPS + 1))
    quality = scorer.score(CASES, [Schedule(table.schedules[i][:, None]) for i in index])

    expected = table.choose.psnr_db[np.arange(3), index]
    np.testing.assert_array_equal(quality.psnr_db, expected)


def test_a_played_controller_is_judged_against_the_references(board: Board) -> None:
    full, half = (play(board, EveryK(k), CASES) for k in (1, 2))

    np.testing.assert_array_equal(full.psnr_db, 60.0)
    np.testing.assert_array_equal(full.computes, STEPS)
    np.testing.assert_allclose(half.computes, STEPS / 2)
    assert (half.psnr_db < 60).all()


def test_a_rule_is_swept_to_the_best_threshold_within_each_number_of_computes(board: Board) -> None:
    found = swept(board, TeaCache, (0.0, 1.0, 3.0), (CASES[:2], CASES[2:]), (2, 12))

    for computes, (_, played) in found.items():
        assert len(played.psnr_db) == 1
        assert played.computes.mean() <= computes + 2  # chosen on other prompts
    assert found[12][0] == 0.0
    assert 2 in found or len(found) == 1


def test_features_are_ranked_on_one_half_and_judged_on_the_other(
    board: Board, table: Table
) -> None:
    ranked = predictors(board, Yardstick(table, 5), most=4)

    assert len(ranked) == 4
    strengths = [abs(one.spearman_choose) for one in ranked]
    assert strengths == sorted(strengths, reverse=True)
    assert all(-1 <= one.spearman_held_out <= 1 for one in ranked)
    assert all(0 <= one.auc_held_out <= 1 for one in ranked)


def test_the_area_under_the_curve_is_the_chance_of_the_right_order() -> None:
    values = np.array([0.1, 0.4, 0.35, 0.8], dtype=np.float32)

    assert auc(values, np.array([False, False, True, True])) == 0.75
    assert auc(values, np.array([True] * 4)) == 0.5


def test_latents_are_decoded_as_the_pipeline_does(board: Board) -> None:
    kept: list[torch.Tensor] = []
    vae, plain = board.pipe.vae, board.pipe.vae.decode

    def noted(latents: torch.Tensor, **options: Any) -> Any:
        kept.append(latents)
        return plain(latents, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "decode", noted)
        images = board.draw(CASES[:2]).images
    (unpacked,) = kept
    config = vae.config
    scaled = (unpacked - config.shift_factor) * config.scaling_factor
    packed = board.pipe._pack_latents(scaled, *scaled.shape)

    torch.testing.assert_close(decode(board.pipe, packed), images)


def test_a_table_of_another_shape_is_refused(tmp_path: Path, table: Table) -> None:
    file = tmp_path / "table.safetensors"
    about = {
        "schema_version": SCHEMA_VERSION,
        "steps": str(STEPS),
        "choose": json.dumps(CASES),
        "held_out": json.dumps(CASES),
    }
    good = {
        "forecast.choose": table.choose.psnr_db.astype(np.float16),
        "forecast.held_out": table.held_out.psnr_db.astype(np.float16),
    }
    save_file(good, file, metadata=about)
    (read,) = read_tables(file)
    assert read.choose.cases == CASES
    np.testing.assert_allclose(read.held_out.psnr_db, table.held_out.psnr_db, atol=0.02)

    save_file(good | {"forecast.choose": good["forecast.choose"][:, :-1].copy()}, file, about)
    with pytest.raises(ArtifactError, match=r"forecast.choose must be finite and of shape"):
        read_tables(file)
    save_file(good, file, metadata=about | {"steps": "8"})
    with pytest.raises(ArtifactError, match="build it with --rebuild"):
        read_tables(file)
