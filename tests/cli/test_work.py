"""Commands from their arguments to what they leave, and what they refuse before they work."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditcache_rl.cli import main
from ditcache_rl.cli.options import command_line
from ditcache_rl.evaluate import policy as evaluation
from ditcache_rl.policy import load_schedules, save_policy
from ditcache_rl.rl import retarget as retargeting
from ditcache_rl.rl import train as training
from ditcache_rl.search import run as searching
from ditcache_rl.sensitivity import load_map
from ditcache_rl.sensitivity import run as analyzing
from ditcache_rl.world import recorder
from ditcache_rl.world.recording import Recording
from tests.kit.environment import untrained_policy, write_env
from tests.kit.unet import CALL, save_unet_pipe

QUICK = ["--prompts", "1", "--images", "1", "--probes", "1"]


@pytest.fixture(scope="module")
def unet_env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an environment whose pipeline has no `transformer`."""
    home = tmp_path_factory.mktemp("unet")
    return write_env(home, CALL, source=str(save_unet_pipe(home)), steps=[4], budgets=[0.5])


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every command fail, with a traceback, that opens a pipeline."""
    for module in (searching, analyzing, training):
        monkeypatch.setattr(module, "open_configured", None)
    for module in (evaluation, retargeting):
        monkeypatch.setattr(module, "open_matching", None)


def test_an_analysis_leaves_a_map_and_a_picture(
    tiny_env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", str(tiny_env), "--out", str(tmp_path / "new"), *QUICK]) == 0

    found = load_map(tmp_path / "new" / "sensitivity.json")
    assert list(found.measures) == ["gradient", "attention"]
    assert (tmp_path / "new" / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "sensitivity per site, by gradient" in out
    assert f"picture: {tmp_path}/new/sensitivity.png\n" in out


def test_a_load_is_recorded_in_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_BURST_S", 0.2)
    out = tmp_path / "new" / "load.safetensors"

    assert main(["record-load", "--minutes", "0.01", "--duty", "0.5", "--out", str(out)]) == 0

    recording = Recording.read(out)
    assert recording.seconds > 0
    assert recording.slowdowns.min() == 1.0
    assert capsys.readouterr().out.endswith(f"recorded: {out}\n")


def test_an_interrupted_record_is_there_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seconds: float, file: Path, *, on_burst: Any, **_: Any) -> None:
        recording = Recording.of(np.array([0.01, 0.02]), 0.01)
        recording.save(file)
        on_burst(1.0, recording)
        raise KeyboardInterrupt

    monkeypatch.setattr(recorder, "record_load", broken)
    out = tmp_path / "load.safetensors"

    assert main(["record-load", "--out", str(out)]) == 130

    shown = capsys.readouterr()
    assert "interrupted\n" in shown.err
    assert f"recorded: {out}\n" in shown.out


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_without_a_transformer_is_searched(unet_env: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "schedules.json"
    asked = ["--method", "uniform", "--evaluations", "1", "--prompts", "1", "--out", str(out)]

    # The run folder is the test's own.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["search", str(unet_env), *asked]) == 0

    (manifest,) = [policy.manifest for policy in load_schedules(out).values()]
    assert manifest.model["class"] == "UNet2DConditionModel"
    assert manifest.command.startswith(f"ditcache-rl search {unet_env}")


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_without_a_transformer_is_analyzed(unet_env: Path, tmp_path: Path) -> None:
    asked = ["--injection-prompts", "1", "--out", str(tmp_path), *QUICK]

    assert main(["analyze", str(unet_env), *asked]) == 0

    found = load_map(tmp_path / "sensitivity.json")
    assert found.model["class"] == "UNet2DConditionModel"
    assert np.isfinite(found.measures["injection"][1:]).all()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", ["search", "analyze", "eval", "train"])
def test_where_nothing_can_be_written_no_work_begins(
    command: str,
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_env: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no folder")
    asked = [str(tiny_env)]
    if command == "eval":
        save_policy(untrained_policy(tiny_pipe, tiny_call), tmp_path / "policy", card="")
        asked = [str(tmp_path / "policy"), "--env", str(tiny_env)]

    assert main([command, *asked, "--out", str(tmp_path / "file" / "below")]) == 2

    assert f"{tmp_path}/file is a file; choose another" in capsys.readouterr().err


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("asked", "package", "extra"),
    [
        (["analyze"], "matplotlib", "train"),
        (["eval"], "matplotlib", "train"),
        (["search", "--method", "nsga2"], "pymoo", "train"),
        (["search", "--method", "all"], "pymoo", "train"),
        (["export", "--onnx", "network.onnx"], "onnxscript", "onnx"),
    ],
)
def test_what_is_not_installed_is_named_before_work(
    asked: list[str],
    package: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    assert main(asked) == 2

    said = capsys.readouterr().err
    assert said.startswith(f"error: expected {package} to be installed")
    assert said.endswith(f"pip install 'ditcache-rl[{extra}]'\n")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", ["search", "analyze", "eval", "train"])
def test_arguments_that_the_pipeline_refuses_are_one_line(
    command: str,
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = tiny_call | {"max_sequence_length": 99_999}
    asked = [str(write_env(tmp_path / "env", call, source=str(tiny_folder)))]
    if command == "eval":
        save_policy(untrained_policy(tiny_pipe, tiny_call), tmp_path / "policy", card="")
        asked = [str(tmp_path / "policy"), "--env", *asked]
    monkeypatch.chdir(tmp_path)

    more = ["--prompts", "1", "--out", str(tmp_path / "out")] if command != "train" else []
    assert main([command, *asked, *more]) == 2

    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: [pipeline] call: expected arguments that FluxPipeline takes")
    assert "max_sequence_length=99999" in said


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("asked", [["train", "--retarget"], ["eval"]])
def test_a_damaged_policy_is_named_before_work(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "manifest.json").write_text("{}")

    assert main([*asked, str(tmp_path / "policy")]) == 2

    assert "expected schema_version 6, received None" in capsys.readouterr().err


@pytest.mark.parametrize(
    "asked",
    [
        "train ENV --retarget POLICY",
        "train ENV --retarget POLICY --estimate",
        "study ENV --policy POLICY",
        "eval POLICY --env ENV --prompts 1",
        "mos prepare POLICY --env ENV --prompts 1 --out OUT",
        "rollout POLICY --env ENV",
        "export POLICY --env ENV --to cache-dit --search 1 --out OUT",
        "export POLICY --env ENV --to scheduler --fit --out OUT",
        "serve PIPELINE --policy POLICY --port 0",
    ],
)
def test_a_policy_of_another_model_is_refused_before_anything_is_drawn(
    asked: str,
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_env: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = untrained_policy(tiny_pipe, tiny_call)
    made.manifest.model["config_sha256"] = "another"
    made = replace(made, manifest=replace(made.manifest, blocks="transformer", network=None))
    if asked.startswith("study"):  # which asks for the blocks of the environment first
        made = replace(made, manifest=replace(made.manifest, blocks=""))
    save_policy(replace(made, network=None), tmp_path / "policy", card="")
    places = {
        "ENV": tiny_env,
        "POLICY": tmp_path / "policy",
        "PIPELINE": tiny_folder,
        "OUT": tmp_path / "out",
    }
    monkeypatch.chdir(tmp_path)

    def drawn(pipe: Any, **call: Any) -> None:
        raise AssertionError("something was drawn")

    monkeypatch.setattr(type(tiny_pipe), "__call__", drawn)

    assert main([str(places.get(word, word)) for word in asked.split()]) == 2

    said = capsys.readouterr().err
    assert "expected transformer config_sha256 another, received" in said
    assert "that of ditcache/tiny-v0" in said
    assert "; train a policy for this pipeline" in said


def test_what_is_no_policy_is_never_replaced_by_one(
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_env: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_policy(untrained_policy(tiny_pipe, tiny_call), tmp_path / "policy", card="")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")

    for asked in ([], ["--retarget", str(tmp_path / "policy")]):
        assert main(["train", str(tiny_env), *asked, "--out", str(precious), "--force"]) == 2
        assert "--force replaces policies only" in capsys.readouterr().err

    assert (precious / "thesis.txt").exists()


def test_a_report_says_what_was_typed_through_any_door(
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_env: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_policy(untrained_policy(tiny_pipe, tiny_call), tmp_path / "policy", card="")
    typed = [str(tmp_path / "policy"), "--env", str(tiny_env), "--prompts", "1"]
    typed += ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(evaluation, "default_baselines", lambda steps, blocks: [])
    monkeypatch.setattr(sys, "argv", ["ditcache-rl", "eval", *typed])

    assert main() == 0

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["command"] == " ".join(["ditcache-rl eval", *typed])


@pytest.mark.parametrize("door", ["ditcache-rl", "__main__.py", "train.py"])
def test_commands_that_are_named_work_where_they_are_named(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setattr(sys, "argv", [str(root / door)])

    named = command_line("eval", "a policy", "--env", "tiny")

    start = f"python {root}/eval.py" if door == "train.py" else "ditcache-rl eval"
    assert named == f"{start} 'a policy' --env tiny"
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.chdir(root)
    assert command_line("eval") == "python eval.py"


@pytest.mark.parametrize("command", ["train", "search"])
def test_an_interrupted_command_goes_on_with_all_that_was_typed(
    command: str,
    tiny_env: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "open_configured", interrupt)
    monkeypatch.setattr(training, "open_configured", interrupt)
    monkeypatch.chdir(tmp_path)
    typed = [command, str(tiny_env), "--seed", "7"]
    typed += ["--force", "--episodes", "5"] if command == "train" else ["--budgets", "0.5"]

    assert main(typed) == 130
    again = shlex.split(capsys.readouterr().err.partition("o on with: ")[2])

    assert again[0] == "ditcache-rl"
    assert again[1:-2] == typed
    assert again[-2] == "--resume"
    assert Path(again[-1]).is_dir()
    assert main(again[1:]) == 130
    assert shlex.split(capsys.readouterr().err.partition("o on with: ")[2]) == again


@pytest.mark.filterwarnings("ignore")
def test_an_estimate_is_a_table_and_trains_nothing(
    tiny_env: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["train", str(tiny_env), "--estimate", "--quiet"]) == 0

    shown = capsys.readouterr()
    assert "references" in shown.out
    assert shown.err == ""
    assert not list(tmp_path.iterdir())
