from pathlib import Path

import pytest

from benchmarks.solver import FULL, QUICK, gains, kept
from ditcache_rl.files import write_json


def test_a_part_is_taken_again_if_it_was_done_with_the_same_amounts(tmp_path: Path) -> None:
    write_json(tmp_path / "calls.json", {"figures": {"a_x": 1.0}, "amounts": QUICK})

    assert kept(tmp_path, "calls", QUICK)["figures"] == {"a_x": 1.0}
    assert kept(tmp_path, "calls", FULL) == {}
    assert kept(tmp_path, "fitted", QUICK) == {}


def test_two_searches_are_compared_at_each_count_and_the_least_gain_is_told() -> None:
    found = gains({"5": [40.0, 50.0], "7": [50.0, 52.0]}, {"5": [38.0, 46.0], "7": [49.0, 51.0]})

    assert found["two_branches_gain_at_5_db"] == pytest.approx(3.0)
    assert found["two_branches_gain_at_7_db"] == pytest.approx(1.0)
    assert found["two_branches_gain_db"] == pytest.approx(1.0)
