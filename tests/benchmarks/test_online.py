from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import online
from benchmarks.online import judge
from benchmarks.traces.served import Kind, measure, read_table, write_table
from ditcache_rl.policy import save_policy
from tests.kit.environment import untrained_policy

FLOOR_DB = 1.0


@pytest.fixture(scope="module")
def policy(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "tiny"
    save_policy(untrained_policy(tiny_pipe, tiny_call), folder, card="")
    return folder


@pytest.fixture(scope="module")
def kinds(policy: Path, tiny_env: Path) -> list[Kind]:
    return measure(str(tiny_env), str(policy), FLOOR_DB, (4, 6))


def test_a_table_holds_every_schedule_and_prompt_and_is_read_as_written(
    kinds: list[Kind], policy: Path, tmp_path: Path
) -> None:
    write_table(kinds, tmp_path / "table.json")
    again = read_table(tmp_path / "table.json", str(policy), FLOOR_DB)

    assert [kind.steps for kind in again] == [4, 6]
    for kind, read in zip(kinds, again, strict=True):
        assert kind.psnr_db.shape == (len(kind.arms), 2)
        assert len(kind.seconds) == len(kind.arms) + 1
        assert [arm.schedule for arm in read.arms] == [arm.schedule for arm in kind.arms]
        np.testing.assert_allclose(read.psnr_db, kind.psnr_db, atol=1e-3)


@pytest.mark.parametrize("changes", [False, True])
def test_the_bandit_is_compared_with_the_best_fixed_schedule(
    kinds: list[Kind], monkeypatch: pytest.MonkeyPatch, *, changes: bool
) -> None:
    monkeypatch.setattr(online, "SEEDS", range(1))
    monkeypatch.setattr(online, "FLOOR_DB", FLOOR_DB)

    figures = judge(kinds, changes=changes)

    assert figures["bandit_over_best_x"] > 0
    assert figures["bandit_with_audits_over_best_x"] >= figures["bandit_over_best_x"]
    assert 0 <= figures["floor_kept_served_share"] <= 1
