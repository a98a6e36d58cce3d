from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditcache_rl.bench import Board, Case
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.rl.episodes import cases_of
from ditcache_rl.rl.stages import (
    floors_stage,
    rescale_stage,
    safe_stage,
    sample_stage,
    search_stage,
)
from ditcache_rl.schedules.patterns import pattern_costs, step_patterns
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search import Sample
from ditcache_rl.types import Mode
from tests.kit.boards import Puzzle, hidden_schedule
from tests.kit.environment import tiny_config, tiny_setting

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


def searched(config: EnvConfig, board: Puzzle | Board, file: Path, tick: Ticks) -> Plan:
    return search_stage(config, board, SAMPLE, file=file, seed=0, tick=tick)


@pytest.mark.parametrize("sites", [1, 3])
def test_a_searched_plan_spends_its_budgets_and_ends_at_full_compute(
    sites: int, config: EnvConfig, tmp_path: Path
) -> None:
    board, tick = Puzzle(hidden_schedule(28, sites, 0)), Ticks()

    plan = searched(config, board, tmp_path / "plan.npz", tick)

    found = np.flatnonzero(plan.patterns[:, 0] >= 0)
    spent = pattern_costs(step_patterns(sites))[plan.patterns[found]].sum(axis=1)
    np.testing.assert_array_equal(spent, found)
    named = {int(share * 28 * sites + 1e-9) for share in config.targets.budgets}
    assert named | set(range(2 * sites, 14 * sites + 1, sites)) <= set(found.tolist())
    # What asks for no speed-up at all must get the reference.
    assert (plan.patterns[28 * sites] == Mode.COMPUTE).all()
    assert np.isfinite(plan.quality[found]).all()
    assert tick.shares == sorted(tick.shares)
    assert 0.9 < tick.shares[-1] <= 1


def test_a_finished_search_is_read_not_repeated(config: EnvConfig, tmp_path: Path) -> None:
    file = tmp_path / "plan.npz"
    plan = searched(config, Puzzle(hidden_schedule(28, 1, 0)), file, Ticks())
    board = Puzzle(hidden_schedule(28, 1, 1))

    again = searched(config, board, file, Ticks())

    assert board.scored == []
    np.testing.assert_array_equal(plan.patterns, again.patterns)
    np.testing.assert_array_equal(plan.quality, again.quality)


def test_a_carried_plan_is_scored_at_the_budgets_that_are_named(
    config: EnvConfig, tmp_path: Path
) -> None:
    first = Puzzle(hidden_schedule(28, 1, 0))
    plan = searched(config, first, tmp_path / "plan-28.npz", Ticks())
    board = Puzzle(hidden_schedule(50, 1, 0))

    carried = rescale_stage(
        config,
        plan,
        {28: first.sigmas(), 50: board.sigmas()},
        board,
        SAMPLE,
        file=tmp_path / "plan-50.npz",
        seed=0,
        tick=Ticks(),
    )

    assert np.flatnonzero(np.isfinite(carried.quality[:, 0])).tolist() == [7, 12, 16]
    found = np.flatnonzero(carried.patterns[:, 0] >= 0)
    spent = pattern_costs(step_patterns(1))[carried.patterns[found]].sum(axis=1)
    np.testing.assert_array_equal(spent, found)
    assert found[-1] == 50


def test_what_is_carried_without_a_fit_between_named_budgets_is_fitted(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"steps": [6, 12], "budgets": [0.34, 0.5]}
    config = tiny_config(tmp_path, tiny_call, **options)
    boards = [Board(tiny_pipe, n, sites=1, call=tiny_call, blocks="transformer") for n in (6, 12)]
    plan = searched(config, boards[0], tmp_path / "plan-6.npz", Ticks())
    plan.weights[4:] = np.nan

    carried = rescale_stage(
        config,
        plan,
        {board.steps: board.sigmas() for board in boards},
        boards[1],
        SAMPLE,
        file=tmp_path / "plan-12.npz",
        seed=0,
        tick=Ticks(),
    )

    for budget in (4, 5, 6):
        assert np.isfinite(carried.weights[budget]).any()


def test_a_sample_is_chosen_once(tmp_path: Path) -> None:
    file, cases = tmp_path / "sample.json", [Case('a "b"', seed) for seed in range(12)]
    board = Puzzle(hidden_schedule(28, 1, 0))

    first = sample_stage(board, cases, 8, file=file)
    drawn = len(board.scored)

    assert sample_stage(board, cases, 8, file=file) == first
    assert len(board.scored) == drawn > 0


def test_floors_are_what_nearly_all_select_prompts_reach(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, tiny_call)
    setting, file = tiny_setting(config, tiny_pipe), tmp_path / "floors.npy"
    board, cases = setting.board, cases_of(config, "select")
    least = setting.plan.least

    plan = floors_stage(setting, cases, file=file, tick=Ticks())

    controller = StaticSchedule.of(plan.row(least), step_patterns(board.sites))
    images, _ = board.draw_under(controller, cases)
    quality = board.judge(images, cases)
    np.testing.assert_allclose(plan.floors[least], np.percentile(quality, 5, axis=1), atol=1e-3)
    assert plan.floors[board.steps * board.sites].tolist() == [60.0, 1.0]
    again = floors_stage(setting, cases, file=file, tick=Ticks())
    np.testing.assert_array_equal(again.floors, plan.floors)


def test_safe_schedules_reach_at_least_the_floors_of_the_others(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, tiny_call)
    setting, file = tiny_setting(config, tiny_pipe), tmp_path / "safe.npz"
    cases = cases_of(config, "select")
    train = cases_of(config, "train")
    setting.plan = floors_stage(setting, cases, file=tmp_path / "floors.npy", tick=Ticks())
    tick = Ticks()

    def safe() -> Plan:
        return safe_stage(
            setting, Sample(train, train, train[:1]), cases, file=file, seed=0, tick=tick
        )

    found = safe()

    measured = np.isfinite(setting.plan.floors[:, 0])
    assert (found.floors[measured] >= setting.plan.floors[measured] - [0, 1]).all()
    same = (found.floors == setting.plan.floors)[:, 0]
    assert (found.patterns[same] == setting.plan.patterns[same]).all()
    assert np.isfinite(found.floors[[1, 2, 3, 4]]).all(), "of all that is named"
    assert tick.shares == sorted(tick.shares)
    for before, again in zip(found, safe(), strict=True):
        np.testing.assert_array_equal(before, again)
