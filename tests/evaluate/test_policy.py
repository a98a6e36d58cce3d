import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ditcache_rl.cli import main
from ditcache_rl.config import load_env
from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate import Method
from ditcache_rl.evaluate import policy as evaluation
from ditcache_rl.evaluate.policy import policy_methods
from ditcache_rl.mos import HIDDEN, RatingSet
from ditcache_rl.policy import save_policy
from tests.kit.environment import PROMPTS, levels_of, untrained_policy
from tests.kit.pacers import tiny_pacer


@pytest.fixture
def policy(tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path) -> Path:
    """A policy whose network is used at half of full compute."""
    made = untrained_policy(tiny_pipe, tiny_call, adaptive={"4": [2]})
    save_policy(made, tmp_path / "policy", card="made for a test")
    return tmp_path / "policy"


@pytest.fixture
def few_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    def rivals(steps: int, blocks: str | None) -> list[Method]:
        return [Method("fewer steps", "fewer-steps", "2 steps", num_inference_steps=2)]

    monkeypatch.setattr(evaluation, "default_baselines", rivals)


@pytest.mark.usefixtures("few_rivals")
def test_an_evaluation_writes_table_report_and_pictures(
    policy: Path,
    tiny_env: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out, file = tmp_path / "out", tmp_path / "deep" / "report.json"
    asked = ["--env", str(tiny_env), "--prompts", "2", "--json", str(file), "--out", str(out)]

    status = main(["eval", str(policy), *asked])

    assert status == 0
    assert {path.name for path in out.iterdir()} == {"report.json", "frontier.png", "grid.png"}
    report = json.loads(file.read_text())
    assert report == json.loads((out / "report.json").read_text())
    assert report["env"] == "ditcache/tiny-v0"
    assert report["prompts"] == list(PROMPTS["test"])
    assert report["seeds"] == [30, 31]
    assert report["num_inference_steps"] == 4
    assert report["command"].startswith("ditcache-rl eval")
    rows = {(row["method"], row["family"], row["target"]): row for row in report["rows"]}
    assert set(rows) == {
        ("reference", "reference", ""),
        ("policy", "static", "budget 0.25"),
        ("policy", "learned", "budget 0.5"),
        ("its schedule", "static", "budget 0.5"),
        ("policy", "static", "budget 0.75"),
        ("fewer steps", "fewer-steps", "2 steps"),
    }
    shares = {target: row["compute_share"] for (_, _, target), row in rows.items()}
    assert [shares[f"budget {share}"] for share in (0.25, 0.5, 0.75)] == [0.25, 0.5, 0.75]
    # A network that has learned nothing draws what its schedule draws.
    learned = rows["policy", "learned", "budget 0.5"]
    assert learned["psnr_db"] == rows["its schedule", "static", "budget 0.5"]["psnr_db"]
    printed = capsys.readouterr().out
    assert "ditcache/tiny-v0: 2 images" in printed
    assert "its schedule" in printed
    assert f"report, plot and pictures: {out}\n" in printed


@pytest.mark.usefixtures("few_rivals")
def test_a_page_is_written_besides_with_all_that_was_measured(
    policy: Path, tiny_env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["--env", str(tiny_env), "--prompts", "2", "--out", str(out)]

    assert main(["eval", str(policy), *asked, "--report", str(tmp_path / "page")]) == 0

    report = json.loads((out / "report.json").read_text())
    # The network has learned nothing, so that what is online does what is static.
    assert {
        tuple(line["modes"]) for line in report["traces"] if line["target"] == "budget 0.5"
    } == {("CRC1",)}
    assert all(line["memory"]["peak_bytes"] > 0 for line in report["traces"])
    assert report["profile"]["num_inference_steps"] == 4
    page = (tmp_path / "page" / "report.html").read_text()
    assert report["command"] in page
    assert page.count("data:image/png") >= 2
    assert f"page: {tmp_path}/page/report.html\n" in capsys.readouterr().out


@pytest.mark.usefixtures("few_rivals")
def test_a_set_for_raters_shows_every_method_at_its_nearest_setting(
    policy: Path, tiny_env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--env", str(tiny_env), "--prompts", "2", "--out", str(tmp_path / "set")]

    assert main(["mos", "prepare", str(policy), *asked, "--speedups", "2"]) == 0

    rated = RatingSet.read(tmp_path / "set")
    assert {page.method for page in rated.pages} == {
        "policy",
        "its schedule",
        "fewer steps",
        HIDDEN,
    }
    assert len(rated.pages) == 8
    assert all(page.quality["psnr_db"] > 0 for page in rated.pages if page.method != HIDDEN)
    assert rated.facts["command"].startswith("ditcache-rl mos prepare")
    assert f"serve them: ditcache-rl studio --mos {tmp_path}/set\n" in capsys.readouterr().out
    assert main(["mos", "prepare", str(policy), *asked]) == 2
    assert "expected a folder that does not exist" in capsys.readouterr().err


@pytest.mark.usefixtures("few_rivals")
def test_a_set_has_the_methods_that_are_named_and_an_unknown_one_is_refused_before_drawing(
    policy: Path,
    tiny_env: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard: list[list[str]] = []

    def measured(_: Any, methods: list[Method], *__: Any, **___: Any) -> Any:
        heard.append([method.label for method in methods])
        raise ConfigError("enough")

    monkeypatch.setattr(evaluation, "evaluate", measured)
    asked = ["mos", "prepare", str(policy), "--env", str(tiny_env), "--prompts", "2"]
    asked += ["--out", str(tmp_path / "set"), "--methods"]

    assert main([*asked, "fewer step"]) == 2
    assert "'fewer steps', received 'fewer step'. Did you mean" in capsys.readouterr().err
    assert heard == []
    assert main([*asked, "its schedule"]) == 2

    assert heard == [["its schedule budget 0.5"]]


@pytest.mark.usefixtures("few_rivals")
def test_deadlines_are_measured_by_the_clock_beside_everything_else(
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_env: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = untrained_policy(tiny_pipe, tiny_call)
    pacer = tiny_pacer(levels_of(tiny_pipe, tiny_call, 4), agent=True)
    save_policy(replace(made, pacer=pacer), tmp_path / "policy", card="")
    out = tmp_path / "out"
    asked = ["--env", str(tiny_env), "--prompts", "2", "--out", str(out)]

    assert main(["eval", str(tmp_path / "policy"), "--deadline-s", "1e6", "1e-6", *asked]) == 0

    report = json.loads((out / "report.json").read_text())
    found = {(line["method"], line["deadline_s"]): line for line in report["deadlines"]}
    assert {name for name, _ in found} == {
        "policy, deadline",
        "static by speed at the start, deadline",
    }
    assert {(s, line["kept_share"]) for (_, s), line in found.items()} == {(1e6, 1.0), (1e-6, 0.0)}
    ours = found["policy, deadline", 1e6]
    assert ours["n"] == 2
    assert ours["psnr_db"]["mean"] > 0
    assert "policy, deadline" not in {row["method"] for row in report["rows"]}
    assert "by the clock" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limit", "message"),
    [("0.3", "expected a policy that was trained to keep deadlines"), ("-1", "deadline_s must be")],
)
def test_a_deadline_that_cannot_be_kept_is_refused_before_anything_is_drawn(
    limit: str,
    message: str,
    policy: Path,
    tiny_env: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(evaluation, "evaluate", None)
    asked = ["--env", str(tiny_env), "--prompts", "1", "--out", str(tmp_path / "out")]

    assert main(["eval", str(policy), f"--deadline-s={limit}", *asked]) == 2

    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("few_rivals")
@pytest.mark.parametrize("steps", [6, 9])
def test_another_step_count_is_evaluated_on_request(
    steps: int, policy: Path, tiny_env: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    main(
        [
            "eval",
            str(policy),
            "--env",
            str(tiny_env),
            "--prompts",
            "1",
            "--steps",
            str(steps),
            "--out",
            str(out),
        ]
    )

    report = json.loads((out / "report.json").read_text())
    assert report["num_inference_steps"] == steps
    assert len(report["prompts"]) == 1
    assert "learned" not in {row["family"] for row in report["rows"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "0"], "--prompts must lie between 1 and the 2 of test.txt, received 0"),
        (["--prompts", "3"], "received 3"),
        (["--prompts", "1", "--steps", "0"], "--steps must lie in [1, 1024], received 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    arguments: list[str],
    message: str,
    policy: Path,
    tiny_env: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(
        ["eval", str(policy), "--env", str(tiny_env), "--out", str(tmp_path / "out"), *arguments]
    )

    out, err = capsys.readouterr()
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_a_policy_of_another_model_is_not_measured(
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_env: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = untrained_policy(tiny_pipe, tiny_call)
    made.manifest.model["weights"] = "0" * 32
    save_policy(made, tmp_path / "policy", card="")

    assert main(["eval", str(tmp_path / "policy"), "--env", str(tiny_env), "--prompts", "1"]) == 2
    assert "policy of another model" in capsys.readouterr().err


def test_a_schedule_stands_beside_the_network_only_where_it_decides(
    tiny_pipe: Any, tiny_call: dict[str, Any], tiny_env: Path
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call, adaptive={"4": [1, 3]})

    methods = policy_methods(policy, load_env(tiny_env), levels_of(tiny_pipe, tiny_call, 4))

    listed = [(method.name, method.family, method.target) for method in methods]
    assert listed == [
        ("policy", "learned", "budget 0.25"),
        ("its schedule", "static", "budget 0.25"),
        ("policy", "static", "budget 0.5"),
        ("policy", "learned", "budget 0.75"),
        ("its schedule", "static", "budget 0.75"),
    ]
    carried = policy_methods(policy, load_env(tiny_env), levels_of(tiny_pipe, tiny_call, 5))
    assert {method.family for method in carried} == {"static"}, "the network was not compared there"
