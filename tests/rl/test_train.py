import io
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ditcache_rl as dc
from ditcache_rl.bench.run import alone_in
from ditcache_rl.cli import main
from ditcache_rl.cli.tables import time_taken
from ditcache_rl.config import load_env
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import write_json
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.policy import load_policy
from ditcache_rl.rl import train
from ditcache_rl.rl.train import TrainOptions
from tests.kit.environment import PROMPTS, write_env

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")

FILES = {"manifest.json", "controller.safetensors", "metrics.json", "README.md"}


class Trained(NamedTuple):
    """A training that was interrupted after its search and then resumed as it said."""

    env: Path
    home: Path
    """Where the commands ran."""
    interrupted: tuple[int, str]
    """Status and stderr."""
    resumed: tuple[int, str]
    kept: dict[str, tuple[int, bytes]]
    """Time and content of the files of finished stages when the resumed run began."""

    @property
    def run(self) -> Path:
        (run,) = (self.home / "runs" / "tiny").iterdir()
        return run

    @property
    def policy(self) -> Path:
        return self.home / "new" / "policy"


def command(*arguments: str) -> tuple[int, str]:
    """Run the command line, and return its status and what it wrote to stderr."""
    with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
        status = main(arguments)
    return status, said.getvalue()


def stamps(run: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of the files of stages; every run adds its seconds to the file of these."""
    files = {*run.glob("*.json"), *run.glob("table-*.npz")} - {run / "seconds.json"}
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@pytest.fixture(scope="module")
def trained(
    tiny_folder: Path, tiny_call: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    home = tmp_path_factory.mktemp("train")
    options: dict[str, Any] = {"steps": [4, 5], "budgets": [0.25, 0.5], "rows": 8}
    env = write_env(home / "env", tiny_call, source=str(tiny_folder), **options)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(train, "learn", interrupt)
            first = command("train", str(env), "--seed", "3", "--out", "new/policy")
        kept = stamps(next((home / "runs" / "tiny").iterdir()))
        again = shlex.split(first[1].partition("Go on with: ")[2])
        second = command(*again[1:])
        yield Trained(env, home, first, second, kept)


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(trained: Trained) -> None:
    status, said = trained.interrupted

    assert status == 130
    last = said.strip().splitlines()[-1]
    assert last.endswith(
        f"ditcache-rl train {trained.env} --seed 3 --out new/policy "
        f"--resume runs/tiny/{trained.run.name}"
    )


def test_what_it_says_goes_on_and_leaves_finished_stages_alone(trained: Trained) -> None:
    status, said = trained.resumed

    assert status == 0, said
    stages = "profile-4.json run.json sample-4.json table-4.npz table-5.npz"
    assert set(trained.kept) == set(stages.split())
    assert stamps(trained.run) == trained.kept


def test_a_training_leaves_a_complete_policy(trained: Trained) -> None:
    policy = load_policy(trained.policy)
    manifest, config = policy.manifest, load_env(trained.env)

    assert {file.name for file in trained.policy.iterdir()} == FILES
    assert not list(trained.policy.parent.glob(".partial*"))
    assert (manifest.env_id, manifest.env_sha256) == ("ditcache/tiny-v0", config.sha256)
    assert (policy.steps, manifest.sites, manifest.seed) == ([4, 5], 1, 3)
    assert policy.network is not None
    assert manifest.network is not None
    assert manifest.network.tiers == ["device", "drop"]
    assert manifest.call == config.pipeline.call
    assert (manifest.prompts, manifest.evaluations) == (2, 2)
    assert policy.objective == (config.reward.psnr, config.reward.ssim)
    assert policy.cost.num_inference_steps == 4
    stages = "profile references search floors safe rescale learn compare"
    assert set(policy.metrics["train_stages_s"]) == set(stages.split())
    seconds = sum(policy.metrics["train_stages_s"].values())
    assert 0 < seconds <= 60 * policy.metrics["train_minutes"]
    assert f"as long as {60 * policy.metrics['train_minutes'] / policy.cost.reference_s:,.0f}" in (
        time_taken(policy)
    )
    assert {steps: len(table.sigmas) for steps, table in policy.tables.items()} == {4: 5, 5: 6}
    assert manifest.machine["cores"]
    assert manifest.versions["torch"]
    for steps, table in policy.tables.items():
        assert [(one.schedule.modes == 0).sum() for one in table.values()] == list(table)
        assert {2, steps} <= set(table)
    searched = policy.tables[4]
    assert list(searched) == [1, 2, 3, 4]
    assert np.isfinite([one[1:3] for one in searched.values()]).all()
    assert searched[4].psnr_db == 60.0
    assert policy.safe.keys() == {4}
    for computes in (1, 2):
        assert policy.safe[4][computes].floor_psnr_db >= searched[computes].floor_psnr_db
        assert policy.safe[4][computes].floor_ssim >= searched[computes].floor_ssim - 1


def test_the_metrics_compare_network_and_schedule_at_every_target(trained: Trained) -> None:
    metrics = load_policy(trained.policy).metrics
    text = (trained.policy / "README.md").read_text()

    for computes in (1, 2):
        floor = load_policy(trained.policy).safe[4][computes].floor_psnr_db
        assert f"| {floor:.1f} dB |" in text
    lines = metrics["select"]
    assert [line["target"] for line in lines[:2]] == ["1/4", "2/4"]
    assert len(lines) == 5  # two budgets and three weights on latency
    for line in lines:
        low, high = line["ci95"]
        assert low <= line["gain"] <= high
        assert line["network_used"] == (low > 0)
        assert line["n"] == len(PROMPTS["select"])
        assert f"| {line['target']} |" in text
    assert metrics["config"]["agent"]["episodes"] == 16
    json.dumps(metrics, allow_nan=False)


def test_the_network_is_used_only_where_it_is_better(trained: Trained) -> None:
    policy = load_policy(trained.policy)

    used = {line["target"] for line in policy.metrics["select"] if line["network_used"]}
    use = policy.manifest.network
    assert use is not None
    assert {f"{count}/4" for count in use.adaptive["4"]} == {name for name in used if "/" in name}
    assert use.adaptive_tradeoff == (sum("tradeoff" in name for name in used) == 3)


def test_the_policy_runs_in_the_pipeline(trained: Trained, tiny_folder: Path) -> None:
    pipe = open_pipeline(str(tiny_folder), device="cpu")
    call = load_env(trained.env).pipeline.call

    with dc.cached(pipe, trained.policy, budget=0.5) as run:
        pipe(PROMPTS["test"][0], num_inference_steps=4, **call)
        pipe(PROMPTS["test"][0], num_inference_steps=5, **call)

    assert [log.compute_share[0] for log in run.logs] == [2 / 4, 2 / 5]


def test_training_again_on_finished_stages_gives_the_same_policy(trained: Trained) -> None:
    config = load_env(trained.env)
    checkpoint = trained.run / "agent.zip"
    before = checkpoint.stat().st_mtime_ns

    out = trained.home / "again"
    options = TrainOptions(trained.run, out, False, 3, "again")
    with redirect_stderr(io.StringIO()):
        train.train(config, options)

    assert stamps(trained.run) == trained.kept
    assert checkpoint.stat().st_mtime_ns == before
    ours, theirs = (folder / "controller.safetensors" for folder in (out, trained.policy))
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_existing_policy_is_not_replaced_unasked(trained: Trained) -> None:
    before = (trained.policy / "manifest.json").read_bytes()

    status, said = command("train", str(trained.env), "--out", str(trained.policy))

    assert status == 2
    assert said.count("\n") == 1
    assert "--force" in said
    assert (trained.policy / "manifest.json").read_bytes() == before
    with pytest.raises(ConfigError, match="exists"):
        train.train(load_env(trained.env), TrainOptions(trained.run, trained.policy, False, 3, ""))


def test_a_policy_never_takes_the_place_of_its_run(trained: Trained) -> None:
    options = TrainOptions(trained.run, trained.run.parent, True, 3, "")

    with pytest.raises(ConfigError, match="in which the run folder"):
        train.train(load_env(trained.env), options)

    assert stamps(trained.run) == trained.kept


def test_a_run_of_something_else_is_not_gone_on_with(trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run, tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    resumed = ("train", str(trained.env), "--resume", str(run), "--out", str(tmp_path / "policy"))

    other_seed, seed_said = command(*resumed, "--seed", "4")
    write_json(run / "run.json", facts | {"model": {"weights": "0" * 32}})
    other_weights, weights_said = command(*resumed, "--seed", "3")
    write_json(run / "run.json", facts | {"version": "0.0.1"})
    other_version, version_said = command(*resumed, "--seed", "3")
    (run / "run.json").unlink()
    unknown, unknown_said = command(*resumed, "--seed", "3")

    assert (other_seed, other_weights, other_version, unknown) == (2, 2, 2, 2)
    assert "were made for seed 3, received 4; leave --resume out" in seed_said
    assert "were made for model {'weights': '000" in weights_said
    assert "were made for version '0.0.1'" in version_said
    assert "run.json: expected what agent.zip, floors-4.npz, " in unknown_said
    assert not (tmp_path / "policy").exists()


def test_a_damaged_checkpoint_is_named_with_what_to_do(trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run, tmp_path / "run")
    (run / "agent.zip").write_bytes((run / "agent.zip").read_bytes()[:-200])
    out = str(tmp_path / "policy")

    status, said = command(
        "train", str(trained.env), "--resume", str(run), "--seed", "3", "--out", out
    )

    assert status == 2
    assert "agent.zip: expected what this run has left there" in said
    assert "remove the file" in said


def test_two_trainings_in_one_folder_are_refused_by_name(trained: Trained) -> None:
    options = TrainOptions(trained.run, trained.home / "other", False, 3, "again")

    with (
        alone_in(trained.run),
        pytest.raises(ConfigError, match=f"that of process {os.getpid()} on .*wait for it"),
    ):
        train.train(load_env(trained.env), options)


def test_force_replaces_policies_and_nothing_else(trained: Trained, tmp_path: Path) -> None:
    old = shutil.copytree(trained.policy, tmp_path / "old")
    (old / "notes.txt").write_text("of the old policy")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    resumed = ("train", str(trained.env), "--resume", str(trained.run), "--seed", "3", "--force")

    replaced, _ = command(*resumed, "--out", str(old))
    refused, said = command(*resumed, "--out", str(precious))

    assert (replaced, refused) == (0, 2)
    assert not (old / "notes.txt").exists()
    assert load_policy(old).steps == [4, 5]
    assert "no manifest.json" in said
    assert (precious / "thesis.txt").exists()
