from pathlib import Path

import pytest

from ditcache_rl.machine import usable_cores


@pytest.mark.parametrize(
    ("quota", "most"),
    [
        ("max 100000", None),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("99900000 100000", None),
        ("", None),
        ("a b", None),
    ],
)
def test_cores_are_those_that_container_and_affinity_allow(
    quota: str, most: int | None, tmp_path: Path
) -> None:
    file = tmp_path / "cpu.max"
    alone = usable_cores(file)
    file.write_text(quota)

    assert alone >= 1
    assert usable_cores(file) == (most or alone)
