import json
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.bench import cases_of
from ditcache_rl.control import PolicyNetwork
from ditcache_rl.interval import Interval, mean_interval
from ditcache_rl.rl.compare import Comparison, compare, metrics_of, used_at
from tests.kit.environment import tiny_config, tiny_scenario


def test_a_network_that_changes_nothing_gains_nothing(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    scenario = tiny_scenario(tiny_config(tmp_path, tiny_call), tiny_pipe)
    schema, logits = len(scenario.actions.schema()), scenario.actions.logits
    network = PolicyNetwork(schema - logits, logits).eval()

    found = compare(scenario, network, cases_of(scenario.config, "select"), tick=lambda *_: None)

    assert list(found)[:3] == [(1, 0.0), (2, 0.0), (3, 0.0)]
    # A weight on latency of 3 is not 3 computes.
    np.testing.assert_allclose(list(found)[3:], [(0, 1.6), (0, 3.0), (0, 4.4)])
    for comparison in found.values():
        assert comparison.gain[:3] == (0.0, 0.0, 0.0)
        assert comparison.psnr_db == comparison.static_psnr_db
        assert not comparison.significant


def test_a_gain_counts_when_its_interval_lies_above_zero() -> None:
    def gained(low: float, high: float) -> Comparison:
        return Comparison("2/4", 30.0, 25.0, 30.5, 25.5, Interval(0.5, low, high, 64))

    assert gained(0.1, 0.9).significant
    assert not gained(0.0, 0.9).significant
    assert not gained(-0.1, 0.9).significant
    (line,) = metrics_of({(2, 0.0): gained(0.1, 0.9)})
    assert json.loads(json.dumps(line)) == line
    assert line["network_used"] is True
    assert line["network_psnr_db"] == {"mean": 30.5, "p5": 25.5}


def test_a_network_is_used_under_every_tradeoff_or_under_none() -> None:
    def gained(low: float) -> Comparison:
        return Comparison("", 30.0, 25.0, 30.5, 25.5, Interval(low, low, low + 1.0, 64))

    mixed = {(2, 0.0): gained(0.1), (0, 1.0): gained(-0.1), (0, 2.0): gained(0.1)}
    all_better = mixed | {(0, 1.0): gained(0.2)}

    assert used_at(mixed) == {(2, 0.0)}
    assert used_at(all_better) == set(all_better)
    assert [line["network_used"] for line in metrics_of(mixed)] == [True, False, False]


def test_a_single_prompt_makes_no_gain_significant() -> None:
    alone = Comparison("2/4", 30.0, 25.0, 30.5, 25.5, mean_interval(np.array([0.5])))

    assert not alone.significant
    assert alone.to_dict(used=False)["ci95"] is None
