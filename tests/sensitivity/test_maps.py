import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.sensitivity import SensitivityMap, load_map, rank_correlation, save_map, typical

TABLE = np.array([[np.nan, np.nan, np.nan], [1.0, 3.0, 2.0], [3.0, 5.0, 9.0]])


def a_map(**measures: Any) -> SensitivityMap:
    named = measures or {"gradient": TABLE, "attention": TABLE / 10}
    return SensitivityMap(
        "ditcache/tiny-v0",
        {"class": "Flux"},
        ["0", "1", "2"],
        named,
        dict.fromkeys(named, 2),
        dict.fromkeys(named, 0.5),
    )


def test_a_map_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    found = a_map()
    save_map(found, tmp_path / "deep" / "map.json")
    again = load_map(tmp_path / "deep" / "map.json")

    assert (again.env_id, again.model, again.names) == (found.env_id, found.model, found.names)
    assert (again.prompts, again.seconds) == (found.prompts, found.seconds)
    for name, table in found.measures.items():
        np.testing.assert_array_equal(again.measures[name], table)


def test_sites_are_graded_by_the_most_trusted_measure() -> None:
    found = a_map(attention=-TABLE, gradient=TABLE)

    assert found.measure == "gradient"
    np.testing.assert_array_equal(found.sites(), [2.0, 4.0, 5.5])
    np.testing.assert_array_equal(found.grades(), [0, 1, 2])
    np.testing.assert_array_equal(found.grades("attention"), [2, 1, 0])


def test_a_measure_that_was_not_taken_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="gradient, attention, received 'injection'"):
        a_map().sites("injection")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 9}, "expected schema_version 1"),
        ({"extra": 1}, "expected schema_version 1 and the fields"),
        ({"names": ["0"]}, "expected 3 names, received 1"),
        ({"names": "abc"}, "names: expected a list"),
        ({"measures": [1]}, "measures: expected a dict"),
        ({"measures": {}}, "expected measures of one size"),
        ({"measures": {"wish": [[1.0]]}}, "expected measures among"),
        ({"measures": {"gradient": [[-1.0]]}}, "expected a table of numbers >= 0"),
        ({"measures": {"gradient": [[1.0], [1.0, 2.0]]}}, "expected rows of numbers"),
        ({"measures": {"gradient": [["x"]]}}, "expected rows of numbers"),
    ],
)
def test_a_broken_map_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    save_map(a_map(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(ArtifactError, match=message):
        load_map(path)


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=20, unique=True))
def test_ranks_do_not_see_the_scale(values: list[int]) -> None:
    table = np.array(values, dtype=np.float64)

    assert rank_correlation(table, np.log(table)) == pytest.approx(1)
    assert rank_correlation(table, -table) == pytest.approx(-1)


def test_what_never_changes_has_no_rank() -> None:
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


def test_one_extreme_prompt_does_not_decide_alone() -> None:
    measured = np.array([[1.0, 4.0, 0.0], [1.0, 4.0, 0.0], [1e6, 4.0, 0.0]])

    np.testing.assert_allclose(typical(measured), [100.0, 4.0, 0.0], rtol=1e-12, atol=1e-300)
