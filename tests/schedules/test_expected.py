"""What single images probably reach is told by lines that are worth it, or not at all."""

from typing import Any

import numpy as np
import pytest

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import Expectation, Schedule, ScheduleTable, Scored
from ditcache_rl.schedules.expected import LEAST_IMAGES
from ditcache_rl.types import SIGNALS, Floats

IMAGES, STEPS, TOLD = 200, 6, (2, 5)


def runs(images: int = IMAGES) -> Floats:
    """Signals of runs that compute two steps after estimates."""
    rng = np.random.default_rng(0)
    jumps = np.full((images, STEPS, SIGNALS), np.nan)
    jumps[:, TOLD] = rng.normal(-6, 1, (images, len(TOLD), SIGNALS))
    return jumps


def test_a_line_is_found_again_with_its_error() -> None:
    jumps, rng = runs(), np.random.default_rng(1)
    psnr_db = 20 - 3 * jumps[:, 2, 0] - jumps[:, 5, 1] + rng.normal(0, 1.5, IMAGES)

    found = Expectation.fit(jumps, psnr_db)

    assert found is not None
    slopes = np.array(found.slopes)
    # Of 200 images slopes are known to 1.5 / sqrt(200) = 0.1 dB.
    assert slopes[2, 0] == pytest.approx(-3, abs=0.4)
    assert slopes[5, 1] == pytest.approx(-1, abs=0.4)
    assert not slopes[[0, 1, 3, 4]].any()
    assert found.error_db == pytest.approx(1.5, abs=0.25)
    missed = found.psnr_db(jumps) - psnr_db
    assert abs(missed.mean()) < 1e-6
    assert missed.std() <= found.error_db, "what was fitted to is missed by less"


@pytest.mark.parametrize("case", ["noise", "few", "nothing"])
def test_nothing_is_expected_where_runs_tell_nothing(case: str) -> None:
    images = LEAST_IMAGES - 1 if case == "few" else IMAGES
    jumps = runs(images)
    psnr_db = 20 - 3 * jumps[:, 2, 0]
    if case == "noise":
        # Antithetic halves with the same runs: no line is better than the mean.
        jumps[IMAGES // 2 :] = jumps[: IMAGES // 2]
        noise = np.random.default_rng(2).normal(0, 3, IMAGES // 2)
        psnr_db = 40 + np.concatenate([noise, -noise])
    if case == "nothing":
        jumps[:] = np.nan

    assert Expectation.fit(jumps, psnr_db) is None


def test_an_image_of_which_a_step_told_nothing_is_unknown() -> None:
    jumps = runs()
    found = Expectation.fit(jumps, 20 - 3 * jumps[:, 2, 0])
    assert found is not None
    jumps[7, 5] = np.nan

    psnr_db = found.psnr_db(jumps)

    assert np.flatnonzero(np.isnan(psnr_db)).tolist() == [7]


def table_of(line: Expectation | None) -> ScheduleTable:
    expected = Scored(Schedule.from_text("C11C11"), expectation=line)
    return ScheduleTable.of(np.linspace(1, 0, 7), [expected, Schedule.from_text("C1C1C1")])


def test_what_is_expected_stays_with_a_table() -> None:
    slopes = tuple((0.0, -1.5, 2.0) if step in TOLD else (0.0,) * SIGNALS for step in range(STEPS))
    table = table_of(Expectation(12.5, 2.0, slopes))

    again = ScheduleTable.from_arrays(table.to_arrays())

    assert again[2].expectation == table[2].expectation
    assert again[3].expectation is None
    assert {"expected", "slopes"} & table_of(None).to_arrays().keys() == set()
    assert all(one.expectation is None for one in table.without_floors().values())


@pytest.mark.parametrize(
    ("name", "value"),
    [("slopes", np.inf), ("slopes", 1e9), ("slopes", np.nan), ("expected", -1.0)],
)
def test_insane_lines_of_a_file_never_reach_a_request(name: str, value: float) -> None:
    arrays: dict[str, Any] = table_of(
        Expectation(12.5, 2.0, ((0.0, 1.0, 0.0),) * STEPS)
    ).to_arrays()
    arrays[name][0, 1] = value

    with pytest.raises(ConfigError, match="to expect quality by"):
        ScheduleTable.from_arrays(arrays)
    arrays[name] = arrays[name][:, :1]
    with pytest.raises(ConfigError, match=f"{name} must have shape"):
        ScheduleTable.from_arrays(arrays)
