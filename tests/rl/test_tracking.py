import importlib
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl import machine
from ditcache_rl.bench import cases_of
from ditcache_rl.cli import main
from ditcache_rl.errors import ConfigError
from ditcache_rl.rl import Scenario
from ditcache_rl.rl.agents import hyperparameters
from ditcache_rl.rl.learn import learn
from ditcache_rl.rl.tracking import TRACKERS, Tracker
from tests.kit.environment import tiny_config, tiny_scenario

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")

EPISODES = 32  # two rollouts
TARGETS = {"0.25", "0.50", "0.75", "tradeoff"}
NUMBERS = {"train/loss", "train/approx_kl", "train/paired_gain", "paired_gain/0.25"}


@pytest.fixture
def scenario(tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path) -> Scenario:
    config = tiny_config(tmp_path / "env", tiny_call, episodes=EPISODES)
    return tiny_scenario(config, tiny_pipe)


@pytest.fixture(scope="module")
def trackio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package, which reads its folder when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield importlib.import_module("trackio")


def learned(scenario: Scenario, folder: Path, callbacks: Sequence[BaseCallback]) -> None:
    folder.mkdir(exist_ok=True)
    cases = cases_of(scenario.config, "train")
    learn(scenario, cases, folder, seed=1, on_episodes=lambda *_: None, callbacks=callbacks)


def facts_of(scenario: Scenario) -> dict[str, Any]:
    return hyperparameters(scenario.config.agent, 1)


def records_of(file: Path) -> Iterator[Any]:
    """Read what wandb keeps of an offline run: records in parts, in blocks of 32 KiB."""
    internal = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, place, whole = file.read_bytes(), 7, b""  # after the head of the file
    while place < len(data):
        if (room := 32768 - place % 32768) < 7:
            place += room
        size, kind = struct.unpack_from("<4xHB", data, place)
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # all of a record, or its last part
            record = internal.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_trackers_have_what_tensorboard_shows_on_this_machine_alone(
    scenario: Scenario,
    trackio: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")

    trackers = [Tracker(name, run="2026 a", facts=facts_of(scenario)) for name in TRACKERS]
    learned(scenario, tmp_path / "run", trackers)
    learned(scenario, tmp_path / "next", trackers)
    for tracker in trackers:
        tracker.close()

    assert capsys.readouterr().out == ""  # results alone go there
    images = {f"{kind}/{target}" for kind in ("pairs", "decisions") for target in TARGETS}
    histograms = {f"gains/{target}" for target in TARGETS}
    rollout = EPISODES * 4 // 2
    updates = [rollout * n for n in (1, 2, 3, 4)]  # the second agent goes on where the first ended

    (file,) = tmp_path.glob("wandb/offline-run-*-2026-a/*.wandb")
    records = list(records_of(file))
    items = [(one.history.step.num, item) for one in records for item in one.history.item]
    steps: dict[str, list[int]] = defaultdict(list)
    for step, item in items:
        steps[item.nested_key[0]].append(step)
    kinds = {i.nested_key[0]: i.value_json for _, i in items if i.nested_key[1:] == ["_type"]}
    assert steps.keys() >= NUMBERS
    assert steps["train/loss"] == updates
    assert {kinds[name] for name in images} == {'"image-file"'}
    assert {kinds[name] for name in histograms} == {'"histogram"'}
    facts = {item.key: item.value_json for record in records for item in record.run.config.update}
    assert facts["algorithm"] == '"maskable"'
    assert any(record.HasField("exit") for record in records)

    (run,) = trackio.Api().runs("ditcache-rl")
    storage: Any = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    logs = storage.get_logs("ditcache-rl", "2026 a")
    kept = {name: value for log in logs for name, value in log.items()}
    assert (run.name, run.config["algorithm"]) == ("2026 a", "maskable")
    assert kept.keys() >= NUMBERS
    assert [log["step"] for log in logs if "train/loss" in log] == updates
    assert {kept[name]["_type"] for name in images} == {"trackio.image"}
    assert {kept[name]["_type"] for name in histograms} == {"trackio.histogram"}


def test_an_interrupt_ends_the_run_and_a_training_that_goes_on_goes_on_in_it(
    scenario: Scenario, trackio: Any, tmp_path: Path
) -> None:
    class Interrupt(BaseCallback):
        def _on_step(self) -> bool:
            raise KeyboardInterrupt

    finished: list[str] = []
    first = Tracker("trackio", run="twice", facts=facts_of(scenario))
    finish = first._run.finish

    def noted() -> None:
        finished.append("once")
        finish()

    first._run.finish = noted

    first.log({"train/loss": 2.0}, step=1)

    with pytest.raises(KeyboardInterrupt):
        learned(scenario, tmp_path / "run", [first, Interrupt()])
    first.close()

    assert finished == ["once"]
    again = Tracker("trackio", run="twice", facts=facts_of(scenario))
    again.log({"train/loss": 1.0}, step=2)
    again.close()
    assert [one.name for one in trackio.Api().runs("ditcache-rl")].count("twice") == 1


def test_an_unknown_tracker_and_one_that_is_not_installed_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"wandb or trackio, received 'wandbb'\. Did you mean"):
        Tracker("wandbb", run="x", facts={})
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(ConfigError, match=rf"expected {name} .*'ditcache-rl\[{name}\]'"):
            Tracker(name, run="x", facts={})


def test_a_tracker_that_begins_no_run_says_so_before_anything_is_computed(
    tiny_env: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    package: Any = ModuleType("wandb")
    package.__spec__, package.init = ModuleSpec("wandb", None), lambda **_: 1 / 0
    monkeypatch.setitem(sys.modules, "wandb", package)

    status = main(["train", str(tiny_env), "--track", "wandb", "--quiet"])

    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert "expected wandb to begin a run, received ZeroDivisionError" in err
    assert not (tmp_path / "runs").exists()
