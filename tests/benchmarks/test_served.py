"""What the benchmark of a server does with what it measured."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import serving
from benchmarks.served.bursts import Burst, most_in_time
from benchmarks.served.drift import changed
from benchmarks.served.simulated import foretold
from ditcache_rl.inference import open_policy
from ditcache_rl.queueing import Traffic
from ditcache_rl.serve.server import CallCosts


def test_the_schedule_of_the_most_computes_that_keeps_as_many_deadlines_is_among_those_played() -> (
    None
):
    computes = [2, 3, 4, 5, 6, 9, 14, 28]
    for most in (0, 2, 3, 6, 14, 28):

        def kept(count: int, most: int = most) -> Burst:
            return Burst(1.0 if count <= most else 0.9, float(count), 0.0, 0, 0.0)

        played = most_in_time(kept, computes, 1.0)

        assert len(played) <= 4
        assert max((n for n, one in played.items() if one.kept_share == 1.0), default=0) == most


def test_parts_that_were_measured_one_by_one_make_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(range(9))

    def part(name: str, *_: object) -> serving.Measured:
        return {f"{name}_x": float(next(turns))}, {"rows": 1}

    def run(*options: str) -> dict[str, Any]:
        file = tmp_path / "found.json"
        given = ["serving.py", "--quick", "--json", str(file), *options]
        monkeypatch.setattr(sys, "argv", given)
        serving.main()
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    monkeypatch.setattr(serving, "RUNS", tmp_path)
    monkeypatch.setattr(serving, "PARTS", {name: partial(part, name) for name in ("ray", "drift")})

    assert run("--only", "drift")["figures"] == {"drift_x": 0.0}
    found = run("--only", "ray", "--resume")
    assert found["figures"] == {"ray_x": 1.0, "drift_x": 0.0}
    assert {"rows", "commit", "load", "seconds"} <= set(found["details"]["drift"])
    assert run("--only", "drift")["figures"] == {"drift_x": 2.0}


def test_weights_are_changed_by_noise_and_put_back_to_the_bit() -> None:
    model = torch.nn.Linear(8, 8)
    before = model.weight.detach().clone()

    with changed(model, 0.5):
        assert 0.2 < float((model.weight - before).std() / before.std()) < 0.8

    assert torch.equal(model.weight, before)


def test_a_trace_is_foretold_with_the_costs_that_were_measured() -> None:
    """Images that never meet are in time, each at its best; where a machine is slow, fewer are.

    A schedule is the best of many on the prompts that it was searched on, and worse on others.
    """
    policy = open_policy("shapes-ppo")
    table = policy.tables[policy.steps[0]]
    costs = CallCosts(row_s=0.03, compute_s=0.0, compute_row_s=0.02, own_px=64 * 64)
    image_s = costs.batch_s(table.site_steps, 1)
    comes_s = np.arange(6.0)[None] * 10 * image_s
    alone = Traffic(comes_s, comes_s + 2 * image_s)
    at_once = Traffic(np.zeros((1, 6)), np.full((1, 6), 2 * image_s))

    for computes in (6, 9):
        kept = foretold(policy, costs, alone, rows=4, computes=computes)
        assert kept.kept_share == 1.0
        reached = table[computes].reached
        assert reached is not None
        evenly = np.interp(np.linspace(0, 100, 100_001), np.arange(101), reached.psnr_db)
        assert np.isclose(kept.psnr_db, evenly.mean(), atol=0.01)
    every = foretold(policy, costs, at_once, rows=4, computes=table.site_steps)
    assert every.kept_share <= 2 / 6  # there is time for two
    ours = foretold(policy, costs, at_once, rows=4)
    assert ours.kept_share == 1.0
    costs.slowness = 4.0
    assert foretold(policy, costs, at_once, rows=4).psnr_db < ours.psnr_db
