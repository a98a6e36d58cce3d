import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored, nominal_cost, spaced_table
from ditcache_rl.serve import Arm, Bandit
from tests.kit.disk import full_at

FLOOR = 35.0
LEVELS = np.linspace(1, 0, 5)


def arms(*, known: bool = False) -> list[Arm]:
    """Schedules of 1, 2 and 3 computed steps of 4, in time as many seconds."""
    table = spaced_table(LEVELS, 1)
    if known:
        figures = {1: (30, 25), 2: (50, 45), 3: (55, 50), 4: (60, 60)}
        measured = {
            computes: Scored(table[computes].schedule, psnr_db=mean, floor_psnr_db=floor)
            for computes, (mean, floor) in figures.items()
        }
        table = table.with_lines(measured)
    return Arm.all_of(table, nominal_cost(4, 1), min_psnr=FLOOR)


def serve(bandit: Bandit, psnr: list[float], requests: int, *, spread: float = 1.0) -> list[int]:
    """Serve requests whose schedules have such a PSNR; returns what was served, 3 for full."""
    rng, some = np.random.default_rng(1), arms()
    served = []
    for _ in range(requests):
        turn = bandit.turn("kind", some)
        served.append(3 if turn.arm is None else turn.arm)
        for arm in turn.audited:
            bandit.note_time("kind", some, arm, arm + 1.0)
            bandit.note_audit("kind", some, arm, psnr[arm] + spread * rng.normal())
    return served


def test_nothing_is_served_before_an_audit_where_the_policy_knows_nothing() -> None:
    served = serve(Bandit(min_psnr=FLOOR, audit=1e-9), [60, 60, 60], 50)

    assert set(served) == {3}


def test_a_full_disk_keeps_the_state_that_was_saved_and_fails_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "state.json"
    bandit = Bandit(min_psnr=FLOOR, audit=1.0, state=file)
    bandit.note_audit("kind", arms(), 0, 40.0)
    before = file.read_bytes()

    with full_at(len(before) // 2):
        bandit.note_audit("kind", arms(), 0, 41.0)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert "the bandit's state is not saved" in caplog.text

    bandit.note_audit("kind", arms(), 0, 42.0)
    assert file.read_bytes() != before


def test_what_the_policy_measured_is_served_at_once() -> None:
    turn = Bandit(min_psnr=FLOOR, audit=1e-9).turn("kind", arms(known=True))

    assert turn.arm == 1, "30 dB is too little, 50 dB with a fifth percentile of 45 is enough"


def test_the_fastest_schedule_above_the_floor_is_found() -> None:
    served = serve(Bandit(min_psnr=FLOOR, audit=0.3), [30, 42, 50], 300)

    assert set(served[200:]) == {1}


def test_a_schedule_below_the_floor_is_never_served() -> None:
    served = serve(Bandit(min_psnr=FLOOR, audit=1.0), [20, 25, 30], 100)

    assert set(served) == {3}


def test_a_schedule_that_gets_worse_is_taken_out_of_service() -> None:
    bandit = Bandit(min_psnr=FLOOR, audit=0.5)

    assert serve(bandit, [42, 50, 55], 200)[-1] == 0
    assert serve(bandit, [30, 50, 55], 200)[-1] == 1


def test_an_image_that_is_no_number_counts_as_broken() -> None:
    served = serve(Bandit(min_psnr=FLOOR, audit=1.0), [float("nan")] * 3, 50)

    assert set(served) == {3}


def test_the_same_seed_audits_the_same_requests() -> None:
    turns = [
        [len(bandit.turn("kind", arms()).audited) for _ in range(50)]
        for bandit in (Bandit(min_psnr=FLOOR, audit=0.3, seed=s) for s in (1, 1, 2))
    ]

    assert turns[0] == turns[1] != turns[2]


def test_kinds_learn_apart_and_are_bounded() -> None:
    bandit, some = Bandit(min_psnr=FLOOR, audit=1.0), arms()
    for _ in range(30):
        bandit.note_audit("easy", some, 0, 50.0)
    for number in range(200):
        bandit.turn(f"kind {number}", some)

    assert bandit.turn("easy", some).arm == 0
    assert bandit.turn("kind 1", some).arm is None
    assert len(bandit.summary()) <= 65


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "state" / "bandit.json"
    serve(Bandit(min_psnr=FLOOR, audit=0.5, state=file), [42, 50, 55], 100)
    again = Bandit(min_psnr=FLOOR, audit=1e-9, state=file)

    assert again.note == ""
    assert again.turn("kind", arms()).arm == 0
    assert [path.name for path in file.parent.iterdir()] == ["bandit.json"]


@pytest.mark.parametrize("changed", ["modes", "coefficients", "number"])
def test_what_was_learned_of_other_schedules_does_not_count(tmp_path: Path, changed: str) -> None:
    file = tmp_path / "bandit.json"
    serve(Bandit(min_psnr=FLOOR, audit=0.5, state=file), [42, 50, 55], 100)
    table, modes = spaced_table(LEVELS, 1), np.array([[0], [2], [2], [2]])
    assert table[1].schedule == Schedule(modes)
    if changed == "modes":
        table = table.with_lines({1: Scored(Schedule(np.where(modes == 2, 3, modes)))})
    elif changed == "coefficients":
        table = table.with_lines(
            {1: Scored(Schedule(modes, np.where(modes > 0, [1.0, 0.0, 0.0], np.nan)))}
        )
    else:
        table = ScheduleTable.of(LEVELS, [table[1]])
    others = Arm.all_of(table, nominal_cost(4, 1), min_psnr=FLOOR)

    assert Bandit(min_psnr=FLOOR, audit=1e-9, state=file).turn("kind", others).arm is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ('{"version": 1, "min_psnr": 30.0, "kinds": {}}', "min_psnr"),
        ('{"version": 1, "min_psnr": 35.0, "kinds": 3}', "kinds"),
        ('{"version": 1, "min_psnr": 35.0, "kinds": {"a": {"1": {"audits": 1}}}}', "record"),
    ],
)
def test_a_state_that_does_not_fit_says_what_is_used_instead(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "bandit.json"
    file.write_text(text)

    bandit = Bandit(min_psnr=FLOOR, state=file)

    assert message in bandit.note
    assert "own figures are used instead" in bandit.note
    assert bandit.turn("kind", arms(known=True)).arm == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_psnr": 0},
        {"min_psnr": 99},
        {"min_psnr": "35"},
        {"audit": 0},
        {"audit": 2},
        {"keep": 1.0},
        {"seed": -1},
        {"seed": 1.5},
        {"state": 3},
    ],
)
def test_a_number_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Bandit(**({"min_psnr": FLOOR} | wrong))


@pytest.mark.parametrize("number", ["1e999", "1e30", "NaN", "-1" + "0" * 400])
def test_insane_numbers_of_a_state_never_reach_a_request(number: str, tmp_path: Path) -> None:
    file = tmp_path / "bandit.json"
    serve(Bandit(min_psnr=FLOOR, audit=0.5, state=file), [42, 50, 55], 100)
    state = json.loads(file.read_text())
    (records,) = state["kinds"].values()
    for record in records.values():
        record["mean_db"] = "HERE"
    file.write_text(json.dumps(state).replace('"HERE"', number))

    bandit = Bandit(min_psnr=FLOOR, audit=0.5, state=file)

    assert "bandit.json: expected a JSON object, received the number" in bandit.note
    assert serve(bandit, [42, 50, 55], 10)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_a_state_that_is_no_file_is_refused_before_a_request_waits_for_it(
    kind: str, tmp_path: Path
) -> None:
    place = Path("/dev/null") if kind == "device" else tmp_path / kind
    if kind == "folder":
        place.mkdir()
    if kind == "pipe":
        os.mkfifo(place)

    with pytest.raises(ConfigError, match=rf"file.* {place} is (none|a folder); choose"):
        Bandit(min_psnr=FLOOR, state=place)


@pytest.mark.parametrize("state", ["a\0b", "file/state.json", "x" * 300])
def test_a_state_that_cannot_be_written_is_refused_before_a_request_fails_for_it(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")

    with pytest.raises(ConfigError, match="expected a file that can be written"):
        Bandit(min_psnr=FLOOR, state=state)
