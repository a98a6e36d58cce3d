import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditcache_rl.cli import main
from ditcache_rl.config import load_env
from ditcache_rl.errors import ConfigError
from ditcache_rl.rl import study as studies
from ditcache_rl.rl.agents import settings_of
from ditcache_rl.rl.study import StudyOptions, study
from tests.kit.environment import write_env

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")

SEARCHED = {
    "learning_rate",
    "clip_range",
    "ent_coef",
    "gae_lambda",
    "target_kl",
    "n_epochs",
    "batch_size",
}


@pytest.fixture(scope="module")
def env(
    tiny_folder: Path, tiny_call: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    home = tmp_path_factory.mktemp("study")
    return write_env(home / "env", tiny_call, source=str(tiny_folder), episodes=8)


def test_a_study_that_was_interrupted_goes_on_as_it_says_and_prints_what_can_be_pasted(
    env: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    begun: list[dict[str, Any]] = []
    plain = vars(studies)["learn"]

    def learn(scenario: Any, *arguments: Any, **options: Any) -> Any:
        begun.append(settings_of(scenario.config.agent))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return plain(scenario, *arguments, **options)

    monkeypatch.setattr(studies, "learn", learn)
    status = main(["study", str(env), "--trials", "3", "--quiet"])
    said = capsys.readouterr().err
    assert status == 130
    again = shlex.split(said.partition("go on with: ")[2])

    assert main(again[1:]) == 0

    present = settings_of(load_env(env).agent)
    assert len(begun) == 4  # one was interrupted, and three are complete
    assert begun[0] == {**begun[0], **{name: present.get(name, 16) for name in SEARCHED}}
    assert begun[2] != begun[1]  # what was interrupted is not asked for again
    table, _, block = capsys.readouterr().out.partition("# ")
    assert {"own", *SEARCHED} <= set(re.findall(r"\w+", table))
    agent = tomllib.loads("# " + block)["agent"]
    kept = {"algorithm": "maskable", "rows": 4, "episodes": 8}
    assert {name: agent[name] for name in kept} == kept
    assert agent["settings"].keys() >= SEARCHED
    assert agent["settings"] in [
        {name: one[name] for name in agent["settings"]} for one in (begun[0], *begun[2:])
    ]
    (folder,) = (tmp_path / "runs" / "study" / "tiny").iterdir()
    assert (folder / "study.db").exists()
    assert len(list(folder.glob("trial-*/events*"))) == 3


def test_a_finished_study_tries_nothing_more_and_ranks_what_it_has(
    env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = iter([0.1, 0.3, -0.2])
    monkeypatch.setattr(studies._Study, "_gain", lambda *_: next(gains))
    options = StudyOptions(tmp_path / "run", trials=3, seed=1)

    first = study(load_env(env), options)
    again = study(load_env(env), options)

    assert [(one.number, one.gain) for one in first] == [(1, 0.3), (0, 0.1), (2, -0.2)]
    assert again == first


def test_a_folder_of_another_study_is_refused(
    env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies._Study, "_gain", lambda *_: 0.0)
    study(load_env(env), StudyOptions(tmp_path, trials=1, seed=1))

    with pytest.raises(ConfigError, match="made for seed 1"):
        study(load_env(env), StudyOptions(tmp_path, trials=1, seed=2))


def test_agents_are_judged_on_prompts_that_they_have_not_seen(
    env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    judged: list[str] = []
    plain_learn, plain_play = (vars(studies)[name] for name in ("learn", "play"))

    def learn(scenario: Any, cases: Any, *arguments: Any, **options: Any) -> Any:
        seen.extend(case.prompt for case in cases)
        return plain_learn(scenario, cases, *arguments, **options)

    def play(scenario: Any, network: Any, tasks: Any) -> Any:
        judged.extend(task.case.prompt for task in tasks)
        return plain_play(scenario, network, tasks)

    monkeypatch.setattr(studies, "learn", learn)
    monkeypatch.setattr(studies, "play", play)
    (tried,) = study(load_env(env), StudyOptions(tmp_path, trials=1, seed=1))

    assert np.isfinite(tried.gain)
    assert seen
    assert judged
    assert not set(seen) & set(judged)
    assert {*seen, *judged} == set(load_env(env).read_prompts("train"))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"algorithm": "dqn", "settings": {}}, "expected .agent. algorithm maskable or plain"),
        ({"settings": {"learning_rat": 1.0}}, "Did you mean 'learning_rate'?"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_made(
    env: Path, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    config = load_env(env)
    config = replace(config, agent=replace(config.agent, **changed))

    with pytest.raises(ConfigError, match=named):
        study(config, StudyOptions(tmp_path / "run", trials=1, seed=1))

    assert not (tmp_path / "run").exists()


def test_without_optuna_a_study_names_the_extra(
    env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditcache_rl.machine.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"expected optuna .*'ditcache-rl\[study\]'"):
        study(load_env(env), StudyOptions(tmp_path / "run", trials=1, seed=1))
