import itertools
from pathlib import Path
from typing import Any

from ditcache_rl.config import load_env
from ditcache_rl.rl.staged import StagedBar
from tests.kit.environment import write_env
from tests.kit.progress import Heard

STAGES = [
    *("profile", "references", "search", "floors", "safe"),
    *("rescale", "place", "pace", "learn", "compare"),
]


def told(config: Any, folder: Path) -> tuple[list[str], Heard]:
    heard = Heard()
    staged = StagedBar(heard, config, folder / "seconds.json")
    for stage in STAGES:
        staged.enter(stage)
    staged.tick(1.0, "all")
    return heard.doing[:-1], heard


def test_stages_without_work_are_neither_told_nor_waited_for(
    tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = load_env(write_env(tmp_path, tiny_call, steps=[4]))

    stages, heard = told(config, tmp_path)

    assert stages == [one for one in STAGES if one not in ("rescale", "place", "pace")]
    assert abs(heard.done - heard.total) < 1e-9


def test_an_environment_with_all_of_it_has_every_stage(tmp_path: Path) -> None:
    stages, heard = told(load_env("shapes"), tmp_path)

    assert stages == [one for one in STAGES if one != "place"]
    assert abs(heard.done - heard.total) < 1e-9


def test_a_stage_took_what_lies_between_its_beginning_and_that_of_the_next_in_all_runs(
    tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = load_env(write_env(tmp_path, tiny_call, steps=[4]))
    working = [one for one in STAGES if one not in ("rescale", "place", "pace")]
    clock = itertools.count(step=2.0).__next__

    for runs in (1, 2):
        staged = StagedBar(Heard(), config, tmp_path / "seconds.json", clock=clock)
        for stage in STAGES:
            staged.enter(stage)
        staged.end()

        assert staged.seconds == dict.fromkeys(working, 2.0 * runs)
        assert staged.total_s == 2.0 * runs * (1 + len(STAGES))  # what came before the first too
