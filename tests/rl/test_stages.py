from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ditcache_rl.bench import Board, Case, Replay, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ArtifactError
from ditcache_rl.rl.stages import (
    floors_stage,
    rescale_stage,
    safe_stage,
    sample_stage,
    search_stage,
)
from ditcache_rl.schedules import Expectation, Schedule, ScheduleTable, expected, spaced_table
from ditcache_rl.search import GapFitter, Sample
from ditcache_rl.types import Mode
from tests.kit.boards import Puzzle, hidden_schedule
from tests.kit.environment import tiny_config, tiny_scenario

CASES = [Case("a", 1), Case("b", 2)]
SAMPLE = Sample(CASES, CASES, CASES[:1])


class Ticks:
    """Remembers what a progress bar would show."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def __call__(self, share: float, note: str) -> None:
        self.shares.append(share)


@pytest.fixture
def config(tiny_call: dict[str, Any], tmp_path: Path) -> EnvConfig:
    options: dict[str, Any] = {"steps": [28, 50], "budgets": [0.15, 0.25, 0.33]}
    return tiny_config(tmp_path / "env", tiny_call, **options)


def searched(config: EnvConfig, board: Puzzle | Board, file: Path, tick: Ticks) -> ScheduleTable:
    return search_stage(config, cast(Board, board), SAMPLE, file=file, seed=0, tick=tick)


def assert_same(table: ScheduleTable, other: ScheduleTable) -> None:
    """Check that two tables hold the same in every line."""
    assert table.to_arrays().keys() == other.to_arrays().keys()
    for name, values in table.to_arrays().items():
        np.testing.assert_array_equal(values, other.to_arrays()[name])


@pytest.mark.parametrize("sites", [1, 3])
def test_a_searched_table_computes_what_is_named_and_ends_at_full_compute(
    sites: int, config: EnvConfig, tmp_path: Path
) -> None:
    board, tick = Puzzle(hidden_schedule(28, sites, 0)), Ticks()

    table = searched(config, board, tmp_path / "table.npz", tick)

    modes = {computes: one.schedule.modes for computes, one in table.items()}
    assert [(own == Mode.COMPUTE).sum() for own in modes.values()] == list(table)
    named = {int(share * 28 * sites + 1e-9) for share in config.targets.budgets}
    assert named | set(range(2 * sites, 14 * sites + 1, sites)) <= set(table)
    # What asks for no speed-up at all must get the reference.
    assert (modes[28 * sites] == Mode.COMPUTE).all()
    assert np.isfinite([one[1:3] for one in table.values()]).all()
    np.testing.assert_array_equal(table.sigmas, board.sigmas())
    assert tick.shares == sorted(tick.shares)
    assert 0.9 < tick.shares[-1] <= 1


def test_a_finished_search_is_read_not_repeated(config: EnvConfig, tmp_path: Path) -> None:
    file = tmp_path / "table.npz"
    table = searched(config, Puzzle(hidden_schedule(28, 1, 0)), file, Ticks())
    board = Puzzle(hidden_schedule(28, 1, 1))

    again = searched(config, board, file, Ticks())

    assert board.asked == []
    assert_same(table, again)


@pytest.mark.parametrize("damage", ["cut", "empty", "json", "other steps", "no arrays", "folder"])
def test_what_a_stage_left_damaged_is_named_with_what_to_do(
    damage: str, config: EnvConfig, tmp_path: Path
) -> None:
    file = tmp_path / "table-28.npz"
    board = Puzzle(hidden_schedule(28, 1, 0))
    arrays = spaced_table(np.linspace(1, 0, 5 if damage == "other steps" else 29), 1).to_arrays()
    np.savez(file, allow_pickle=False, **({} if damage == "no arrays" else arrays))
    match damage:
        case "cut":
            file.write_bytes(file.read_bytes()[:-100])
        case "empty":
            file.write_bytes(b"")
        case "json":
            file.write_text("{}")
        case "folder":
            file.unlink()
            file.mkdir()

    with pytest.raises(ArtifactError, match=r"table-28\.npz: .*; remove the file"):
        searched(config, board, file, Ticks())


@pytest.mark.parametrize(
    "text", ["", "[[], [", "[1, 2, 3]", "[[], [], []]", '[[["b", 1]], [], []]']
)
def test_a_sample_of_something_else_is_named_with_what_to_do(text: str, tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text(text)
    board = cast(Board, Puzzle(hidden_schedule(28, 1, 0)))

    with pytest.raises(ArtifactError, match=r"sample\.json: .*; remove the file"):
        sample_stage(board, CASES, 8, file=tmp_path / "sample.json")


def test_a_carried_table_is_scored_at_the_budgets_that_are_named(
    config: EnvConfig, tmp_path: Path
) -> None:
    first = Puzzle(hidden_schedule(28, 1, 0))
    table = searched(config, first, tmp_path / "table-28.npz", Ticks())
    board = Puzzle(hidden_schedule(50, 1, 0))

    carried = rescale_stage(
        config,
        table,
        cast(Board, board),
        SAMPLE,
        file=tmp_path / "table-50.npz",
        seed=0,
        tick=Ticks(),
    )

    scored = {computes: one for computes, one in carried.items() if np.isfinite(one.psnr_db)}
    assert list(scored) == [7, 12, 16]
    assert all(one.psnr_db == board.value(one.schedule) for one in scored.values())
    assert [(one.schedule.modes == Mode.COMPUTE).sum() for one in carried.values()] == list(carried)
    assert list(carried)[-1] == 50


def test_what_is_carried_without_a_fit_between_named_budgets_is_fitted(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"steps": [6, 12], "budgets": [0.34, 0.5]}
    config = tiny_config(tmp_path, tiny_call, **options)
    boards = [Board(tiny_pipe, n, sites=1, call=tiny_call, blocks="transformer") for n in (6, 12)]
    table = searched(config, boards[0], tmp_path / "table-6.npz", Ticks())
    bare = {n: one._replace(schedule=Schedule(one.schedule.modes)) for n, one in table.items()}
    table = table.with_lines({n: one for n, one in bare.items() if n >= 4})

    carried = rescale_stage(
        config,
        table,
        boards[1],
        SAMPLE,
        file=tmp_path / "table-12.npz",
        seed=0,
        tick=Ticks(),
    )

    for computes in (4, 5, 6):
        assert carried[computes].schedule.coefficients is not None


def test_a_stage_records_full_compute_of_a_case_once(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"steps": [6, 12], "budgets": [0.25, 0.5]}
    config = tiny_config(tmp_path, tiny_call, **options)
    boards = [Board(tiny_pipe, n, sites=1, call=tiny_call, blocks="transformer") for n in (6, 12)]
    cases = [Case(prompt, seed) for seed, prompt in enumerate("abcde")]
    sample = Sample(cases, cases, cases[:1])
    recorded: list[Case] = []

    class Noted(Replay):
        def __init__(self, board: Board, cases: Sequence[Case]) -> None:
            recorded.extend(cases)
            super().__init__(board, cases)

    monkeypatch.setattr("ditcache_rl.search.parts.Replay", Noted)
    monkeypatch.setattr("ditcache_rl.search.calibrate.Replay", Noted)
    monkeypatch.setattr("ditcache_rl.rl.stages.FEW_CASES", 2)
    monkeypatch.setattr(GapFitter, "is_possible", lambda *_: True)
    file = tmp_path / "table-6.npz"
    table = search_stage(config, boards[0], sample, file=file, seed=0, tick=Ticks())
    # What is found above named budgets is fitted on few cases, apart from the rest.
    assert sorted(recorded) == sorted([*cases, *cases[:2]])
    recorded.clear()

    # Three of 12 steps are searched on few cases and settled on half of all, six fitted on few.
    file = tmp_path / "table-12.npz"
    rescale_stage(config, table, boards[1], sample, file=file, seed=0, tick=Ticks())

    assert sorted(recorded) == sorted(cases[:3])


def test_a_sample_is_chosen_once(tmp_path: Path) -> None:
    file, cases = tmp_path / "sample.json", [Case('a "b"', seed) for seed in range(12)]
    puzzle = Puzzle(hidden_schedule(28, 1, 0))
    board = cast(Board, puzzle)

    first = sample_stage(board, cases, 8, file=file)
    drawn = len(puzzle.asked)

    assert sample_stage(board, cases, 8, file=file) == first
    assert len(puzzle.asked) == drawn > 0


def test_floors_are_what_nearly_all_select_prompts_reach(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, tiny_call)
    scenario, file = tiny_scenario(config, tiny_pipe), tmp_path / "floors.npz"
    board, cases = scenario.board, cases_of(config, "select")

    table = floors_stage(scenario, cases, file=file, tick=Ticks())

    least = table[table.least]
    quality = board.judge(board.draw(cases, StaticSchedule(least.schedule)).images, cases)
    np.testing.assert_allclose(least[3:5], np.percentile(quality, 5, axis=1), atol=1e-3)
    assert table[board.steps * board.sites][3:5] == (60.0, 1.0)
    assert least.reached is not None
    assert (least.reached.psnr_db[5], least.reached.ssim[5]) == least[3:5]
    assert_same(table.without_floors(), scenario.table.without_floors())
    assert_same(floors_stage(scenario, cases, file=file, tick=Ticks()), table)


def test_what_single_images_reach_is_learned_where_floors_are_measured(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "LEAST_IMAGES", 6)
    scenario = tiny_scenario(tiny_config(tmp_path, tiny_call), tiny_pipe)
    cases = cases_of(scenario.config, "train", images=4)

    table = floors_stage(scenario, cases, file=tmp_path / "floors.npz", tick=Ticks())

    drawn = scenario.board.draw(cases, StaticSchedule(table[2].schedule))
    assert drawn.log is not None
    jumps, psnr_db = drawn.log.jumps(), scenario.board.judge(drawn.images, cases).psnr_db
    fitted, found = Expectation.fit(jumps, psnr_db), table[2].expectation
    assert fitted is not None
    assert found is not None
    np.testing.assert_allclose(found.psnr_db(jumps), fitted.psnr_db(jumps), atol=1e-2)
    assert table[table.least].expectation is None, "a step alone is followed by nothing computed"


def test_safe_schedules_reach_at_least_the_floors_of_the_others(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, tiny_call)
    scenario, file = tiny_scenario(config, tiny_pipe), tmp_path / "safe.npz"
    cases = cases_of(config, "select")
    train = cases_of(config, "train")
    usual = floors_stage(scenario, cases, file=tmp_path / "floors.npz", tick=Ticks())
    scenario.table = usual
    tick = Ticks()

    def safe() -> ScheduleTable:
        return safe_stage(
            scenario, Sample(train, train, train[:1]), cases, file=file, seed=0, tick=tick
        )

    found = safe()

    assert list(found) == list(usual)
    for computes, one in found.items():
        if np.isfinite(usual[computes].floor_psnr_db):
            assert one.floor_psnr_db >= usual[computes].floor_psnr_db
            assert one.floor_ssim >= usual[computes].floor_ssim - 1
        if one[3:5] == usual[computes][3:5]:
            assert one.schedule == usual[computes].schedule
    assert np.isfinite([found[computes][3:5] for computes in (1, 2, 3, 4)]).all(), "all named ones"
    assert tick.shares == sorted(tick.shares)
    assert_same(found, safe())
