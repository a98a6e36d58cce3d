import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import ArtifactError
from ditcache_rl.policy import Policy, load_schedules, save_schedules
from ditcache_rl.policy.schedule_file import _digest
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored, nominal_cost
from tests.kit.policies import FOUND, MANIFEST, same_schedules, same_table, table_of


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_schedules(FOUND, tmp_path / "a" / "schedules.json")
    return tmp_path / "a" / "schedules.json"


def altered(saved: Path, **changes: Any) -> Path:
    """Change fields of a file, digest included: what a careful forger would do."""
    raw = json.loads(saved.read_text()) | changes
    saved.write_text(json.dumps(raw | {"sha256": _digest(raw)}))
    return saved


def entry(**changes: Any) -> list[dict[str, Any]]:
    """Return schedules with one that is changed."""
    good = {"method": "climb", "steps": 4, "modes": "C11C | C11C", "psnr_db": 1.0, "ssim": 1.0}
    good |= {"coefficients": [[]] * 4, "tiers": ""}
    return [good | {"method": "other"}, good | changes]


def test_a_file_is_read_as_it_was_written(saved: Path) -> None:
    read = load_schedules(saved)

    assert same_schedules(read, FOUND)
    assert [path.name for path in saved.parent.iterdir()] == ["schedules.json"]
    written = saved.read_bytes()
    save_schedules(read, saved)
    assert saved.read_bytes() == written
    assert [policy.steps for policy in read.values()] == [[4], [4, 6]]


def fitted_policy(coefficients: Sequence[list[float]]) -> Policy:
    whole = np.array([row or [np.nan] * 3 for row in coefficients])
    schedule = Schedule.from_text("C1C1", whole)
    table = ScheduleTable.of(np.linspace(1, 0, 5), [Scored(schedule, 31.0, 0.9)])
    profile = nominal_cost(4, 1).to_dict()
    return Policy(replace(MANIFEST, sites=1, profile=profile), {4: table})


def test_tiers_are_read_as_they_were_written(tmp_path: Path) -> None:
    tiers = np.array([[0, 1], [3, 3], [2, 0], [0, 1]], dtype=np.int8)
    placed = replace(Schedule.from_text("C1C1 | C1C1"), tiers=tiers)
    table = ScheduleTable.of(np.linspace(1, 0, 5), [Scored(placed, 31.0, 0.9)])
    found = {"placed": Policy(MANIFEST, {4: table})}
    save_schedules(found, tmp_path / "schedules.json")

    assert same_schedules(load_schedules(tmp_path / "schedules.json"), found)
    assert '"tiers": "D-KD | H-DH"' in (tmp_path / "schedules.json").read_text()


def test_fitted_coefficients_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = {"fitted": fitted_policy([[], [1.5, 0.0, 0.0], [], [1.0, -0.5, 0.5]])}
    save_schedules(found, tmp_path / "schedules.json")

    assert same_schedules(load_schedules(tmp_path / "schedules.json"), found)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_coefficients_are_rounded_where_no_image_could_tell(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float]
) -> None:
    path = tmp_path_factory.mktemp("rounded") / "schedules.json"
    policy = fitted_policy([[], numbers[:3], [], numbers[3:]])
    save_schedules({"fitted": policy}, path)

    read, written = (
        one.tables[4][2].schedule.coefficients for one in (load_schedules(path)["fitted"], policy)
    )

    assert read is not None
    assert written is not None
    np.testing.assert_allclose(read, written, rtol=0, atol=5.1e-8)


@given(st.data())
def test_any_altered_byte_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "schedules.json"
    save_schedules(FOUND, path)
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != good[place]))
    path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])

    try:
        read = load_schedules(path)
    except ArtifactError:
        return
    assert same_schedules(read, FOUND)  # another kind of white space


@given(st.binary(max_size=200))
def test_what_is_no_schedule_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "schedules.json"
    path.write_bytes(data)

    with pytest.raises(ArtifactError):
        load_schedules(path)


LEVELS = {"4": [1.0, 0.75, 0.5, 0.25, 0.0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 1}, "expected schema_version 5, received 1"),
        ({"schedules": []}, "must be a list with entries"),
        ({"schedules": [1]}, r"schedules\[0\]: expected an object"),
        ({"sites": 0}, r"sites must be an integer in \[1, 256\]"),
        ({"sites": "2"}, "sites must be int, received '2'"),
        ({"seeds": 1}, "unknown field 'seeds'. Did you mean 'seed'"),
        ({"objective": {"psnr": 1.0}}, "objective must have psnr, ssim"),
        ({"sigmas": LEVELS}, "sigmas must have 7 numbers for 6 steps"),
        (
            {"sigmas": LEVELS | {"6": [1.0] * 5}},
            "sigmas must have 7 numbers for 6 steps, received 5",
        ),
        ({"sigmas": LEVELS | {"6": ["1"] * 7}}, "sigmas must have 7 numbers for 6 steps"),
        ({"sigmas": LEVELS | {"6": 7}}, "sigmas must have 7 numbers for 6 steps, received 7"),
        ({"sigmas": None}, "sigmas must have 5 numbers for 4 steps"),
        ({"sigmas": {"4": [1.0, 0.5, 0.75, 0.25, 0.0]}}, "noise levels that never rise"),
        ({"profile": nominal_cost(4, 10**9).to_dict()}, "profile must be of 4 steps and 2 sites"),
        ({"profile": nominal_cost(5, 2).to_dict()}, "profile must be of 4 steps and 2 sites"),
        ({"schedules": entry(steps=20_000)}, r"\[1\]: steps must be an integer in \[1, 1024\]"),
        ({"schedules": entry(coefficients=[[1e9] * 3] * 4)}, "coefficients must be within 1e"),
        ({"seed": 10**400}, "the number of 1329 bits"),
        ({"schedules": entry(modes="C11C | C11")}, r"schedules\[1\]: expected a letter"),
        ({"schedules": entry(modes="C11X | C11C")}, r"schedules\[1\]: expected a letter"),
        ({"schedules": entry(modes="")}, r"schedules\[1\]: expected a \(steps, sites\) table"),
        ({"schedules": entry(modes="C11C")}, "expected 4 steps of 2 sites"),
        ({"schedules": entry(modes="C11 | C11")}, "expected 4 steps of 2 sites"),
        ({"schedules": entry(modes="111C | C11C")}, "whose first step computes every site"),
        ({"schedules": entry(steps=5)}, r"schedules\[1\]: coefficients must be a list per step"),
        (
            {"schedules": entry(steps=5, coefficients=[[]] * 5)},
            "expected 5 steps of 2 sites, received 'C11C | C11C'",
        ),
        ({"schedules": entry(extra=1)}, r"schedules\[1\]: unknown field 'extra'"),
        ({"schedules": entry(ssim="high")}, "ssim must be float, received 'high'"),
        ({"schedules": entry(coefficients=[[]] * 3)}, "coefficients must be a list per step"),
        ({"schedules": entry(coefficients=[[1.0] * 2] * 4)}, "of 3 numbers or none"),
        (
            {"schedules": entry(coefficients=[[1.0] * 3] * 4)},
            r"expected coefficients of shape \(4, 3\) for a schedule of one site",
        ),
        ({"schedules": entry(tiers="DDDD")}, r"expected tiers in \[0, 3\] of shape \(4, 2\)"),
        ({"schedules": entry(tiers="DDDX | DDDD")}, r"schedules\[1\]: expected a letter of DHK-"),
        ({"schedules": entry(method="other")}, "expected one schedule per method"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_place(
    changes: dict[str, Any], message: str, saved: Path
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        load_schedules(altered(saved, **changes))

    assert str(saved) in str(caught.value)


def test_a_schedule_need_not_be_made_of_step_patterns(saved: Path) -> None:
    read = load_schedules(altered(saved, schedules=entry(modes="CR1C | C1RC")))

    assert list(read) == ["other", "climb"]
    assert same_table(read["climb"].tables[4], table_of(("CR1C | C1RC", 1.0, 1.0)))


def test_a_file_that_is_not_there_or_altered_says_so(saved: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none.json: expected a file, found none"):
        load_schedules(saved.with_name("none.json"))

    raw = json.loads(saved.read_text()) | {"seed": 2}
    saved.write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match="the file was altered"):
        load_schedules(saved)
