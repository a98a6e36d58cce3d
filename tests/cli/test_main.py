import subprocess
import sys
from pathlib import Path

import pytest

from ditcache_rl._version import __version__
from ditcache_rl.cli import main
from ditcache_rl.config import shipped as layout
from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate import policy as evaluation
from ditcache_rl.search import METHODS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data as it lies in an installed package: the shipped environments, two policies."""
    shipped = tmp_path / "package" / "_shipped"
    for name in ("shapes-ppo", "tiny"):
        (shipped / "policies" / name).mkdir(parents=True)
        (shipped / "policies" / name / "manifest.json").write_text("{}")
    (shipped / "policies" / "README.md").write_text("what is here")
    (shipped / "envs").symlink_to(ROOT / "envs")
    monkeypatch.setattr(layout, "_PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    return shipped


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with one line on stderr, and return that line."""
    status = main(arguments)

    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ("train", "search", "eval", "list")),
        (
            ["train"],
            ("--out", "--seed", "--episodes", "--force", "--resume", "--device", "--track"),
        ),
        (["study"], ("--trials", "--episodes", "--policy", "--device", "--resume")),
        (["rollout"], ("--env", "--prompts", "--budget", "--steps", "--device", "--out")),
        (["eval"], ("--env", "--prompts", "--steps", "--json", "--out", "(default: shapes-ppo)")),
        (
            ["search"],
            (
                "--method",
                "--budgets",
                "--evaluations",
                "--prompts",
                "--steps",
                "--seed",
                "--out",
                "--resume",
            ),
        ),
        (["analyze"], ("--sites", "--steps", "--prompts", "--injection-prompts", "(default: 0)")),
        (
            ["export"],
            ("--schedules", "--onnx", "--to", "--out", "--speedup", "(default: shapes-ppo)"),
        ),
        (["list"], ("envs", "policies", "pipelines")),
        (["doctor"], ("--dir", "--json")),
        (["studio"], ("--policy", "--mos", "--port", "(default: 127.0.0.1)")),
        (["mos", "prepare"], ("--speedups", "--methods", "(default: shapes-ppo)")),
        (["mos", "report"], ("--json",)),
    ],
)
def test_help_names_every_option_and_default(
    arguments: list[str],
    named: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])

    out = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert out.startswith("usage: ditcache-rl")
    assert all(name in out for name in named)
    assert "None" not in out
    assert "False" not in out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ditcache-rl {__version__}\n"


def test_what_is_shipped_is_listed(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "envs"]) == 0
    assert "shapes" in capsys.readouterr().out.split()
    assert main(["list", "policies"]) == 0
    assert capsys.readouterr().out.split() == ["shapes-ppo", "tiny"]


def test_no_policy_at_all_is_an_empty_list(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for manifest in installed.glob("policies/*/manifest.json"):
        manifest.unlink()

    assert main(["list", "policies"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "shape"], "Did you mean 'shapes'?"),
        (["eval", "shapes-pp"], "Did you mean 'shapes-ppo'?"),
        (["eval", "tiny", "--env", "shaped"], "Did you mean 'shapes'?"),
        (["eval", "zebra"], "shapes-ppo, tiny"),
        (["eval", "tiny"], "tiny/manifest.json: expected schema_version 6"),
        (["train", "--workers", "-1", "--estimate"], "--workers must lie in [0, "),
        (["train", "--retarget", "shapes-ppo", "--workers", "2"], "without --workers and --ray"),
        (["train", "--resume", "runs/nowhere"], "--resume must name a run folder"),
        (["train", "--resume"], "--resume found no run in runs/shapes"),
        (["search", "shape"], "Did you mean 'shapes'?"),
        (["search", "--method", "clim"], "Did you mean 'climb'?"),
        (["search", "--method", "all", "--budgets", "2"], "--budgets must lie in [0.0357, 1]"),
        (["search", "--evaluations", "0"], "--evaluations must lie in [1, 1000000], received 0"),
        (["search", "--evaluations", "9" * 400], "--evaluations must lie in [1, 1000000]"),
        (["search", "--steps", "2"], "--steps must lie in [3, 1024], received 2"),
        (["search", "--steps", "1000000000"], "--steps must lie in [3, 1024], received 1000000000"),
        (["search", "--seed", "-1"], "--seed must lie in [0, 4294967295], received -1"),
        (["train", "--seed", "-1"], "--seed must lie in [0, 4294967295], received -1"),
        (["train", "--seed", "9" * 400], "--seed must lie in [0, 4294967295], received 999"),
        (
            ["train", ""],
            "shapes-tiers, starters/flux-dev, starters/qwen-image, starters/sd35-large",
        ),
        (
            ["train", "x" * 300],
            "starters/sdxl, starters/wan21-1b), received 'xxx",
        ),
        (["eval", "x" * 300], "shapes-ppo, tiny), received 'xxx"),
        (["train", "--resume", "x" * 300], "--resume must name a run folder, received 'xxx"),
        (["eval", ""], "shapes-ppo, tiny), received ''"),
        (["train", "--resume", ""], "--resume must name a run folder, received ''"),
        (["train", "--out", "a\0b"], "expected a folder that can be written, received 'a\\x00b'"),
        (["train", "--out", "x" * 300], "File name too long; choose another"),
        (["search", "--out", "a\0b"], "expected a file that can be written, received 'a\\x00b'"),
        (["eval", "--json", "a\0b"], "expected a file that can be written, received 'a\\x00b'"),
        (["export", "--schedules", "a\0b"], "expected a file that can be written"),
        (["export", "--onnx", "x", "--schedules", "./x"], "different files, received x for two"),
        (["export", "--to", "scheduler"], "--to FORM and --out PATH together"),
        (["export", "--out", "x"], "expected --schedules FILE, --onnx FILE, --to FORM"),
        (["search", "--prompts", "0"], "--prompts must lie between 1 and the 256"),
        (["search", "--resume"], "--resume found no run in runs/search/shapes"),
        (["eval", "envs.json"], "shapes-ppo, tiny"),
        (["train", "--episodes", "0"], "--episodes must lie in [1, 1000000], received 0"),
        (["train", "--episodes", "9" * 400], "--episodes must lie in [1, 1000000], received 999"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    arguments: list[str], hint: str, installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint in refused(arguments, capsys)


def test_an_error_of_several_lines_is_still_one(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise ConfigError("one\ntwo")

    monkeypatch.setattr(evaluation, "evaluate_policy", fail)

    assert refused(["eval"], capsys) == "error: one two\n"


def test_what_a_terminal_would_obey_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert r"received '\x1b[2J'" in refused(["train", "\x1b[2J"], capsys)
    assert r"x\x1b[2J.toml" in refused(["train", "x\x1b[2J.toml"], capsys)


def test_an_interrupted_evaluation_has_no_traceback(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate_policy", interrupt)

    assert main(["eval"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_the_scripts_end_as_the_commands_do(script: str) -> None:
    done = subprocess.run(
        [sys.executable, script, "nowhere"], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_file_that_holds_no_schedules_is_one_line(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("schedules.json").write_text("{}")

    assert "expected schema_version 5" in refused(["eval", "schedules.json"], capsys)


def test_the_help_names_every_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    with pytest.raises(SystemExit):
        main(["search", "--help"])

    assert ", ".join(METHODS) + ", or all" in " ".join(capsys.readouterr().out.split())


def test_a_device_that_was_typed_takes_the_place_of_that_of_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    said = refused(["rollout", "--device", "cudda"], capsys)

    assert "device must be auto, or one of this machine as 'cpu', received 'cudda'" in said
