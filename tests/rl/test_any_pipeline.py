"""An environment takes other pipelines than FLUX: a U-Net with both branches in one batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.bench import Board, Case
from ditcache_rl.cli import main
from ditcache_rl.config import load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.pipelines import open_pipeline, twin
from ditcache_rl.policy import load_policy
from ditcache_rl.schedules import ScheduleTable
from tests.kit.environment import write_env
from tests.kit.pipelines import PROMPTS
from tests.kit.unet import CALL, save_unet_pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_unet_pipe(tmp_path_factory.mktemp("unet"))


def has_floors(table: ScheduleTable) -> bool:
    return bool(np.isfinite([one[3:5] for one in table.values()]).any())


def test_rows_of_a_guided_batch_are_those_of_the_call(folder: Path, tmp_path: Path) -> None:
    config = load_env(write_env(tmp_path, CALL, source=str(folder)))
    pipe = twin(open_pipeline(str(folder), device="cpu"))
    board = Board.of(config, pipe, steps=4)
    cases = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    table = np.array([[0, 0], [0, 1], [0, 0], [0, 1]], np.int8)[:, :, None]

    images, log, _ = board.draw(cases, StaticSchedule.of(table))

    # The batch of the U-Net has four rows: two samples, each with and without its prompt.
    assert log is not None
    assert np.array_equal(log.modes, table)
    assert board.judge(images, cases).psnr_db[0] == 60
    assert not torch.equal(images[1], board.references(cases)[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_trains_from_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    env = write_env(tmp_path, CALL, source=str(folder))
    monkeypatch.chdir(tmp_path)

    assert main(["train", str(env), "--out", str(tmp_path / "policy")]) == 0
    assert main(["train", str(env), "--retarget", str(tmp_path / "policy")]) == 0

    trained = load_policy(tmp_path / "policy")
    (folder,) = (one.parent for one in tmp_path.glob("runs/*/*/policy/manifest.json"))
    other = load_policy(folder)
    assert "policy: runs" in capsys.readouterr().out
    assert other.steps == trained.steps
    for steps, table in trained.tables.items():
        kept = other.tables[steps]
        np.testing.assert_array_equal(kept.sigmas, table.sigmas)
        assert [one.schedule for one in kept.values()] == [one.schedule for one in table.values()]
        for computes, one in table.items():
            np.testing.assert_array_equal(kept[computes][1:3], one[1:3])
        assert not has_floors(kept), "other weights reach other floors"
    assert other.safe.keys() == trained.safe.keys()
    assert not any(has_floors(table) for table in other.safe.values())
    assert any(has_floors(table) for table in trained.tables.values())
    assert trained.network is not None
    assert other.network is None, "that it is better was shown for other weights"
