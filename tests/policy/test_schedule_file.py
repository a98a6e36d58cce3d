import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.policy import (
    Schedule,
    ScheduleFile,
    load_schedules,
    modes_text,
    save_schedules,
    weights_lists,
)
from ditcache_rl.policy.schedule_file import _digest, read_modes
from ditcache_rl.schedules import nominal_cost
from ditcache_rl.schedules.patterns import step_patterns
from ditcache_rl.types import Modes

FILE = ScheduleFile(
    env_id="ditcache/tiny-v0",
    env_sha256="0" * 64,
    sites=2,
    blocks="",
    model={"class": "Model", "config_sha256": "a", "weights": "b"},
    scheduler={"class": "Scheduler", "config_sha256": "c"},
    call={"height": 64},
    sigmas={str(steps): np.linspace(1, 0, steps + 1).tolist() for steps in (4, 6)},
    profile=nominal_cost(4, 2).to_dict(),
    reward={"psnr": 1.0, "ssim": 1.0},
    prompts=2,
    evaluations=10,
    seed=1,
    command="ditcache-rl search tiny",
    machine={"cpu": "x"},
    versions={"torch": "2"},
    schedules=[
        Schedule("climb", 4, "C11C | C11C", 30.0, 0.9, [[]] * 4),
        Schedule("climb", 4, "CR1R | CR1R", 20.0, 0.8, [[]] * 4),
        Schedule("dp", 4, "C1C1 | C1C1", 31.0, 0.9, [[]] * 4),
        Schedule("dp", 6, "CC1211 | C11211", 25.0, 0.7, [[]] * 6),
    ],
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_schedules(FILE, tmp_path / "a" / "schedules.json")
    return tmp_path / "a" / "schedules.json"


def altered(saved: Path, **changes: Any) -> Path:
    """Change fields of a file, digest included: what a careful forger would do."""
    raw = json.loads(saved.read_text()) | changes
    saved.write_text(json.dumps(raw | {"sha256": _digest(raw)}))
    return saved


def entry(**changes: Any) -> list[dict[str, Any]]:
    """Return schedules with one that is changed."""
    good = {"method": "climb", "steps": 4, "modes": "C11C | C11C", "psnr_db": 1.0, "ssim": 1.0}
    good["weights"] = [[]] * 4
    return [good | {"method": "other"}, good | changes]


def test_a_file_is_read_as_it_was_written(saved: Path) -> None:
    read = load_schedules(saved)

    assert replace(read, sha256="") == FILE
    assert [path.name for path in saved.parent.iterdir()] == ["schedules.json"]
    save_schedules(read, saved)
    assert load_schedules(saved) == read
    assert (read.steps, read.methods) == ([4, 6], ["climb", "dp"])


def test_fitted_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    weights = [[], [1.5, 0.0, 0.0], [], [1.0, -0.5, 0.5]]
    fitted = Schedule("fitted", 4, "C1C1", 31.0, 0.9, weights)
    save_schedules(replace(FILE, sites=1, schedules=[fitted]), tmp_path / "schedules.json")

    plan = load_schedules(tmp_path / "schedules.json").plan(4)

    assert plan.weights[2, [1, 3]].tolist() == [weights[1], weights[3]]
    assert np.isnan(plan.weights[2, [0, 2]]).all()
    assert weights_lists(plan.weights[2]) == weights


@given(st.integers(1, 4), st.integers(1, 9), st.randoms(use_true_random=False))
def test_modes_and_their_text_go_together(sites: int, steps: int, random: Any) -> None:
    modes: Modes = np.array(
        [[random.randrange(4) for _ in range(sites)] for _ in range(steps)], dtype=np.int8
    )

    np.testing.assert_array_equal(read_modes(modes_text(modes)), modes)


def test_the_plan_of_a_file_holds_the_best_of_every_cost() -> None:
    patterns = step_patterns(2)

    plan, only = FILE.plan(4), FILE.plan(4, method="climb")

    assert np.flatnonzero(plan.patterns[:, 0] >= 0).tolist() == [2, 4]
    np.testing.assert_array_equal(patterns[plan.patterns[4]], read_modes("C1C1 | C1C1"))
    np.testing.assert_array_equal(patterns[only.patterns[4]], read_modes("C11C | C11C"))
    assert plan.quality[[2, 4]].tolist() == [[20.0, 0.8], [31.0, 0.9]]
    assert np.isnan(plan.weights).all()
    partial = FILE.plan(6)
    np.testing.assert_array_equal(patterns[partial.patterns[3]], read_modes("CC1211 | C11211"))


@pytest.mark.parametrize(("steps", "method"), [(5, None), (6, "climb")])
def test_a_plan_that_is_not_there_is_refused(steps: int, method: str | None) -> None:
    with pytest.raises(ConfigError, match=r"\[4, 6\] and a method among climb, dp"):
        FILE.plan(steps, method=method)


@given(st.data())
def test_any_altered_byte_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "schedules.json"
    save_schedules(FILE, path)
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != good[place]))
    path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])

    try:
        read = load_schedules(path)
    except ArtifactError:
        return
    assert replace(read, sha256="") == FILE  # another kind of white space


@given(st.binary(max_size=200))
def test_what_is_no_schedule_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "schedules.json"
    path.write_bytes(data)

    with pytest.raises(ArtifactError):
        load_schedules(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 1}, "expected schema_version 3, received 1"),
        ({"schedules": []}, "must be a list with entries"),
        ({"schedules": [1]}, r"schedules\[0\]: expected an object"),
        ({"sites": 0}, r"sites must lie in \[1, 256\]"),
        ({"sites": "2"}, "sites must be int, received '2'"),
        ({"seeds": 1}, "unknown field 'seeds'. Did you mean 'seed'"),
        ({"reward": {"psnr": 1.0}}, "reward must have psnr and ssim"),
        ({"sigmas": {"4": [1.0] * 5}}, "sigmas must have 7 numbers for 6 steps, received 0"),
        ({"schedules": entry(modes="C11C | C11")}, r"schedules\[1\]: expected a letter"),
        ({"schedules": entry(modes="C11X | C11C")}, r"schedules\[1\]: expected a letter"),
        ({"schedules": entry(modes="")}, "expected 4 steps of 2 sites"),
        ({"schedules": entry(modes="C11C")}, "expected 4 steps of 2 sites"),
        ({"schedules": entry(modes="111C | C11C")}, "the first computed"),
        ({"schedules": entry(modes="CR1C | C1RC")}, "one of the step patterns"),
        ({"schedules": entry(steps=5)}, "expected 5 steps of 2 sites"),
        ({"schedules": entry(extra=1)}, r"schedules\[1\]: unknown field 'extra'"),
        ({"schedules": entry(ssim="high")}, "ssim must be float, received 'high'"),
        ({"schedules": entry(weights=[[]] * 3)}, "weights must be a list per step"),
        ({"schedules": entry(weights=[[1.0] * 3] * 4)}, "weights belong to schedules of one site"),
        ({"schedules": entry(method="other")}, "expected one schedule per method"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_place(
    changes: dict[str, Any], message: str, saved: Path
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        load_schedules(altered(saved, **changes))

    assert str(saved) in str(caught.value)


def test_a_file_that_is_not_there_or_altered_says_so(saved: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none.json: expected a file, found none"):
        load_schedules(saved.with_name("none.json"))

    raw = json.loads(saved.read_text()) | {"seed": 2}
    saved.write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match="the file was altered"):
        load_schedules(saved)
