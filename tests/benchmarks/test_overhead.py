import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.costs import machinery
from benchmarks.costs.machinery import OverheadAmounts, all_compute, decision, environment, profile
from ditcache_rl.bench import cases_of
from ditcache_rl.config import load_env
from ditcache_rl.policy import save_policy
from tests.kit.environment import untrained_policy

AMOUNTS = OverheadAmounts(pairs=2, requests=2, batches=1, profile_repeats=1, schedule_repeats=1)


@pytest.fixture(autouse=True)
def few(
    tmp_path: Path, tiny_pipe: Any, tiny_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few steps and rows, and a policy of the tiny pipeline."""
    save_policy(untrained_policy(tiny_pipe, tiny_call), tmp_path / "policy", card="")
    monkeypatch.setattr(machinery, "find_policy", lambda: tmp_path / "policy")
    for name, value in {"STEPS": 4, "ROWS": 2, "NETWORK_CALLS": 2}.items():
        monkeypatch.setattr(machinery, name, value)


def test_every_part_is_measured_and_told(tiny_pipe: Any, tiny_env: Path) -> None:
    config = load_env(tiny_env)
    cases = cases_of(config, "train")

    ratio, pairs = all_compute(tiny_pipe, config, cases[0], AMOUNTS)
    seconds, decisions = decision(tiny_pipe, config, cases, AMOUNTS)
    share, batches = environment(tiny_pipe, config, cases[:2], AMOUNTS)
    error, schedules = profile(tiny_pipe, config, cases[0].prompt, AMOUNTS)

    assert all(math.isfinite(value) for value in (ratio, seconds, share, error))
    assert pairs["pairs"] == 2
    assert (decisions["policy"], decisions["decisions"]) == ("policy", 2 * 4)
    assert len(batches["shares"]) == 1  # type: ignore[arg-type]
    assert len(schedules["schedules"]) == machinery.SCHEDULES  # type: ignore[arg-type]
