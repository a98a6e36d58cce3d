"""What is estimated is what a training draws."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ditcache_rl.bench.draw import draw
from ditcache_rl.cli.tables import render_estimate
from ditcache_rl.config import load_env
from ditcache_rl.rl.counted import Price, Stage
from ditcache_rl.rl.estimate import TrainEstimate, estimate
from ditcache_rl.rl.train import TrainOptions, train
from ditcache_rl.types import Progress
from tests.kit.environment import untrained_policy, write_env


class Listening(Progress):
    """Knows the stage under way."""

    name = ""

    def stage(self, name: str) -> None:
        self.name = name


@pytest.mark.filterwarnings("ignore")
def test_the_images_of_an_estimate_are_those_of_the_training(
    tiny_folder: Path,
    tiny_call: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = write_env(tmp_path, tiny_call, source=str(tiny_folder), steps=[4], episodes=8)
    config, drawn, bar = load_env(env), Counter[str](), Listening()

    def counted(pipe: Any, cases: Any, *args: Any, **options: Any) -> Any:
        drawn[bar.name] += len(cases)
        return draw(pipe, cases, *args, **options)

    expected = {stage.name: stage.images for stage in estimate(config).stages}
    monkeypatch.setattr("ditcache_rl.bench.board.draw", counted)
    monkeypatch.setattr("ditcache_rl.bench.profile.draw", counted)
    train(config, TrainOptions(tmp_path / "run", tmp_path / "policy", False, 1, "none"), bar=bar)

    assert expected["profile"] == drawn["profile"]
    assert expected["references"] == drawn["references"]
    for name in ("search", "floors", "safe", "learn", "compare"):
        # What a search tries depends on what it finds, and what was drawn once is remembered.
        assert 0.5 < expected[name] / drawn[name] < 2, (name, expected, drawn)


def test_advice_names_what_takes_longest_and_the_table_adds_up() -> None:
    stages = [Stage("profile", 8, 60.0), Stage("search", 50, 7200.0), Stage("learn", 9, 3600.0)]
    found = TrainEstimate("ditcache/x-v0", "a GPU", True, 6.0, 2, 8.0, stages, False)

    assert found.advice()[0] == "as long as 1,358 images of 8.00 s, one at a time"
    assert found.total == Stage("all", 67, 10860.0)
    assert [line.split(":")[0] for line in found.advice()[2:]] == ["search", "learn"]
    assert found.headline == "ditcache/x-v0 on a GPU: 6.00 s an image of full compute, 2 in a call"
    assert [column.header for column in render_estimate(found).columns][-1] == "GPU-hours"


def test_images_cost_what_does_not_depend_on_steps_and_their_share_of_it() -> None:
    assert Price(fixed_s=1.0, compute_s=8.0).of(3, 0.25) == 9.0


def test_of_a_policy_that_is_brought_to_other_weights_the_profile_is_all(
    tiny_env: Path, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call)

    found = estimate(load_env(tiny_env), retargets=policy)

    assert [stage.name for stage in found.stages] == ["profile"]
    assert len(found.advice()) == 1


def test_what_workers_share_takes_its_part_and_all_are_held_to_the_end() -> None:
    alone = Price(fixed_s=1.0, compute_s=8.0)
    stages = [Stage("learn", 9, 3600.0)]
    found = TrainEstimate("ditcache/x-v0", "a GPU", True, 6.0, 2, 8.0, stages, False, workers=4)

    assert alone.over(4).of(4, 0.5) == alone.of(1, 0.5)
    assert found.headline.endswith("2 in a call, on each of 4 workers")
    hours = list(render_estimate(found).columns[-1].cells)
    assert hours == ["4.00", "4.00"]
