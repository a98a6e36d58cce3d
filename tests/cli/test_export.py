import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ditcache_rl as dc
from ditcache_rl.cli import main
from ditcache_rl.policy import save_policy
from ditcache_rl.shapes import CALL, load_pipeline
from ditcache_rl.solver import CollapsedFlowMatchScheduler
from tests.kit.environment import untrained_policy


def test_two_lines_of_diffusers_draw_what_the_policy_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scheduler"
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)

    def drawn(steps: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        options = {"generator": generator, "output_type": "latent", **CALL}
        latents: Tensor = pipe(
            "a small plain red disc", num_inference_steps=steps, **options
        ).images
        return latents

    assert main(["export", "--to", "scheduler", "--speedup", "4", "--out", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    with dc.cached(pipe, "shapes-ppo", speedup=4.0) as run:
        stepped = drawn(28)
    pipe.scheduler = CollapsedFlowMatchScheduler.from_pretrained(folder)
    computes = round(28 * float(run.logs[0].compute_share[0]))

    # Latents of order 1, rounded 28 times, through a model that turns them.
    torch.testing.assert_close(drawn(computes), stepped, rtol=1e-4, atol=1e-4)
    assert said == [
        str(folder),
        "from ditcache_rl.solver import CollapsedFlowMatchScheduler",
        f'pipe.scheduler = CollapsedFlowMatchScheduler.from_pretrained("{folder}")',
        f"pipe(..., num_inference_steps={computes})",
    ]


@pytest.mark.parametrize("form", ["csv", "cache-dit", "mag-cache", "dpcache"])
def test_a_schedule_is_written_as_others_take_it(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep" / "file"

    typed = ["export", "--to", form, "--budget", "0.25", "--out", str(file)]
    if form == "dpcache":
        request = {"pipeline": "Flux", "checkpoint": "", "height": 64, "width": 64}
        typed += ["--request", json.dumps({**request, "guidance_scale": 3.5})]

    assert main(typed) == 0

    path, *notes = capsys.readouterr().out.splitlines()
    text = file.read_text()
    assert path == str(file)
    if form == "csv":
        assert sum(line.split(",")[2] == "1" for line in text.splitlines()[1:]) == 7
    elif form == "mag-cache":
        assert json.loads(text)["mag_ratios"].count(2.0) == 7
    elif form == "dpcache":
        assert json.loads(text)["num_full_steps"] in (7, 8)
    else:
        assert text.count("1,") + text.count("1]") == 7
    if form != "csv":
        assert [note.split(":")[0] for note in notes] == ["not the same"] * len(notes)
        assert notes


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (["--speedup", "99"], "expected a target within reach, received speedup=99"),
        (["--speedup", "2", "--budget", "0.5"], "expected exactly one of speedup"),
        (["--steps", "9"], r"expected a step count of the policy, [28, 20, 50], received 9"),
        (["--pipeline", "nowhere"], "a scheduler of diffusers, received 'nowhere'"),
        (["--search", "3"], "with --to cache-dit, mag-cache, dpcache, received --to scheduler"),
        (["--to", "mag-cache", "--search", "0"], "--search must lie in"),
        (["--env", "shapes"], "expected --search N or --fit with --env shapes"),
        (["--to", "csv", "--fit"], "with --to scheduler, received --to csv"),
        (["--request", "{}"], "expected --request with --to dpcache, received --to scheduler"),
        (["--to", "dpcache", "--request", "{"], "expected a JSON object, received '{'"),
        (["--to", "dpcache"], "received no pipeline, checkpoint, height, width, guidance_scale"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    typed: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scheduler"

    assert main(["export", "--to", "scheduler", "--out", str(folder), *typed]) == 2

    assert why in capsys.readouterr().err
    assert not folder.exists()


def test_steps_are_searched_again_in_an_engine(
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_env: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, folder = tmp_path / "file", tmp_path / "policy"
    save_policy(untrained_policy(tiny_pipe, tiny_call, steps=[8]), folder, card="")
    typed = ["export", str(folder), "--to", "mag-cache", "--budget", "0.5", "--out", str(file)]

    assert main([*typed, "--search", "3", "--env", str(tiny_env)]) == 0
    assert main(["export", "--to", "csv", "--out", str(file), "--search", "3"]) == 2

    said = capsys.readouterr()
    assert said.out.startswith("PSNR on ")
    assert "dB with the same steps in mag-cache" in said.out
    assert "expected --search with --to cache-dit, mag-cache, dpcache" in said.err
    assert json.loads(file.read_text())["mag_ratios"].count(2.0) == 4


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ([], "received no pipeline, checkpoint, height, width, guidance_scale"),
        (["--request", "{"], "expected a JSON object, received '{'"),
        (["--pipeline", "nowhere"], "a scheduler of diffusers, received 'nowhere'"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_search_draws(
    typed: list[str],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def drawn(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was drawn")

    monkeypatch.setattr("ditcache_rl.pipelines.open_matching", drawn)
    file = tmp_path / "file"

    assert main(["export", "--to", "dpcache", "--search", "3", "--out", str(file), *typed]) == 2

    assert why in capsys.readouterr().err
    assert not file.exists()


def test_fitted_updates_are_exported_where_they_gain(
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tiny_env: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy, folder = untrained_policy(tiny_pipe, tiny_call), tmp_path / "scheduler"
    policy = replace(policy, manifest=replace(policy.manifest, blocks="transformer"))
    save_policy(policy, tmp_path / "policy", card="")
    typed = ["export", str(tmp_path / "policy"), "--to", "scheduler", "--budget", "0.5"]

    assert main([*typed, "--out", str(folder), "--fit", "--env", str(tiny_env)]) == 0
    said = capsys.readouterr().out.splitlines()
    made = CollapsedFlowMatchScheduler.from_pretrained(folder)

    assert said[0].startswith("PSNR on 2 select prompts: ")
    kept = said[-5].removeprefix("kept: ").partition(" dB")[0].rpartition(", ")[0]
    ways = {line.partition(": ")[0] for line in said[1:-5]}
    assert "matrices" in ways
    assert kept in ways or said[-5].startswith("kept: the policy's schedule")
    assert said[-4] == str(folder)
    assert (made.config.maps is not None) == kept.startswith("matrices")
    assert main([*typed, "--out", str(folder), "--fit"]) == 2
    assert "--env where something is drawn" in capsys.readouterr().err
