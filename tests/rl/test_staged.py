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


def told(config: Any) -> tuple[list[str], Heard]:
    heard = Heard()
    staged = StagedBar(heard, config)
    for stage in STAGES:
        staged.enter(stage)
    staged.tick(1.0, "all")
    return heard.doing[:-1], heard


def test_stages_without_work_are_neither_told_nor_waited_for(
    tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = load_env(write_env(tmp_path, tiny_call, steps=[4]))

    stages, heard = told(config)

    assert stages == [one for one in STAGES if one not in ("rescale", "place", "pace")]
    assert abs(heard.done - heard.total) < 1e-9


def test_an_environment_with_all_of_it_has_every_stage() -> None:
    stages, heard = told(load_env("shapes"))

    assert stages == [one for one in STAGES if one != "place"]
    assert abs(heard.done - heard.total) < 1e-9


def test_a_stage_took_from_its_beginning_to_that_of_the_next(
    tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = load_env(write_env(tmp_path, tiny_call, steps=[4]))
    now = itertools.accumulate(itertools.repeat(2.0))
    staged = StagedBar(Heard(), config, clock=lambda: next(now))

    for stage in STAGES:
        staged.enter(stage)
    staged.end()

    idle = ("rescale", "place", "pace")
    assert staged.seconds == dict.fromkeys([one for one in STAGES if one not in idle], 2.0)
