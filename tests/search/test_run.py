import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.bench import Board
from ditcache_rl.bench.run import alone_in
from ditcache_rl.cli.tables import render_schedules
from ditcache_rl.config import load_env
from ditcache_rl.errors import ArtifactError, BudgetError, ConfigError, UnsupportedModelError
from ditcache_rl.evaluate.policy import schedule_methods
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.policy import Policy, load_schedules
from ditcache_rl.search.run import SearchOptions, search_schedules
from ditcache_rl.types import Mode
from tests.kit.pipelines import PROMPTS, build_tiny_pipe
from tests.kit.progress import Heard
from tests.kit.unet import CALL, save_unet_pipe


def options(folder: Path, **changes: Any) -> SearchOptions:
    settings = SearchOptions(
        run=folder,
        out=folder / "schedules.json",
        methods=["uniform", "dp", "climb"],
        budgets=[0.5, 0.75],
        evaluations=8,
        prompts=2,
        seed=1,
        command="ditcache-rl search tiny",
    )
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def run(tiny_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    search_schedules(load_env(tiny_env), options(folder))
    return folder


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Policy]:
    return load_schedules(run / "schedules.json")


def lines(found: dict[str, Policy]) -> list[tuple[Any, ...]]:
    """List method, steps, schedule, PSNR and SSIM of everything that was found."""
    return [
        (method, steps, *one[:3])
        for method, policy in found.items()
        for steps, table in policy.tables.items()
        for one in table.values()
    ]


def test_a_search_finds_every_budget_at_every_step_count(found: dict[str, Policy]) -> None:
    assert list(found) == ["uniform", "dp", "climb"]
    for policy in found.values():
        computed = {
            steps: [one.schedule.text.count("C") for one in table.values()]
            for steps, table in policy.tables.items()
        }
        assert computed == {4: [2, 3], 6: [3, 4]}


def test_forecasts_are_fitted_at_every_step_count(tiny_env: Path, tmp_path: Path) -> None:
    config = load_env(tiny_env)
    whole = replace(config, cache=replace(config.cache, sites=1, blocks="transformer"))

    search_schedules(whole, options(tmp_path, methods=["fitted"]))

    (found,) = load_schedules(tmp_path / "schedules.json").values()
    assert {steps: list(table) for steps, table in found.tables.items()} == {4: [2, 3], 6: [3, 4]}
    for schedule in (one.schedule for table in found.tables.values() for one in table.values()):
        assert schedule.coefficients is not None
        computed = schedule.modes[:, 0] == Mode.COMPUTE
        assert (np.isfinite(schedule.coefficients).all(axis=1) == ~computed).all()
        assert computed.sum() in (schedule.steps // 2, 3 * schedule.steps // 4)
    with dc.cached(build_tiny_pipe(), tmp_path / "schedules.json", budget=0.5):
        pass  # the file is fit to be run


def test_an_interrupted_search_ends_as_one_that_was_not(
    run: Path, tiny_env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, real, calls = load_env(tiny_env), Board.score, 0

    def interrupt(self: Board, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(self, *args)

    for file in (*run.glob("profile-*.json"), run / "run.json"):  # measuring takes longest
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(Board, "score", interrupt)
    with pytest.raises(KeyboardInterrupt):
        search_schedules(config, options(tmp_path))
    search_schedules(config, options(tmp_path))
    drawn = calls
    search_schedules(config, options(tmp_path))

    assert calls == drawn
    once, again = (lines(load_schedules(f / "schedules.json")) for f in (run, tmp_path))
    assert again == once


def test_a_run_of_other_prompts_is_not_gone_on_with(run: Path, tiny_env: Path) -> None:
    with pytest.raises(ConfigError, match=r"were made for prompts 2, received 3; leave --resume"):
        options(run, prompts=3).check(load_env(tiny_env))


def test_two_searches_in_one_folder_are_refused(run: Path, tiny_env: Path) -> None:
    with alone_in(run), pytest.raises(ConfigError, match="no other run works in"):
        search_schedules(load_env(tiny_env), options(run))


def test_a_run_of_other_weights_is_not_gone_on_with(
    run: Path, tiny_env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in run.glob("*.*")}

    def other(*_: Any) -> Any:
        pipe = build_tiny_pipe()
        with torch.no_grad():
            next(pipe.transformer.parameters()).mul_(1.5)
        return pipe

    monkeypatch.setattr("ditcache_rl.search.run.open_configured", other)
    with pytest.raises(ConfigError, match="were made for model "):
        search_schedules(load_env(tiny_env), options(run))

    assert {file: file.read_bytes() for file in before if file.name != ".lock"} == {
        file: data for file, data in before.items() if file.name != ".lock"
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["climbs"]}, "received 'climbs'. Did you mean 'climb'"),
        ({"budgets": [0.1]}, r"--budgets must lie in \[0.25, 1\].*received 0.1"),
        ({"budgets": [1.5]}, "received 1.5"),
        ({"evaluations": 0}, r"--evaluations must lie in \[1, 1000000\], received 0"),
        ({"prompts": 4}, "--prompts must lie between 1 and the 3"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    changes: dict[str, Any], message: str, tiny_env: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        options(tmp_path, **changes).check(load_env(tiny_env))


def test_the_table_has_a_line_per_budget_and_a_column_per_method(found: dict[str, Policy]) -> None:
    table = render_schedules(found)

    assert [column.header for column in table.columns] == ["steps", "computed", *found]
    assert table.row_count == 4


def test_an_evaluation_measures_every_schedule_of_a_step_count(found: dict[str, Policy]) -> None:
    methods = schedule_methods(found, steps=6)

    assert [(m.name, m.target) for m in methods] == [
        (name, f"{count}/6 computed") for name in found for count in (3, 4)
    ]
    assert {m.family for m in methods} == {"static"}
    with pytest.raises(ConfigError, match=r"--steps among \[4, 6\] .* received 5"):
        schedule_methods(found, steps=5)


def test_a_schedule_file_runs_in_place_of_a_policy(
    run: Path, found: dict[str, Policy], tiny_folder: Path, tiny_call: dict[str, Any]
) -> None:
    pipe = open_pipeline(str(tiny_folder), device="cpu")
    file, loaded = run / "schedules.json", Policy.best_of(found.values())
    for policy in (file, str(file), loaded):
        with dc.cached(pipe, policy, budget=0.8) as attached:
            for steps in (4, 6):
                pipe(PROMPTS[0], num_inference_steps=steps, output_type="latent", **tiny_call)
            modes = [log.modes[:, 0] for log in attached.logs]
        assert [int((m == Mode.COMPUTE).sum()) for m in modes] == [3, 4]
        best = max(
            (policy.tables[4][3] for policy in found.values()),
            key=lambda one: one.psnr_db * 2 / 10 + 3 * one.ssim,
        )  # the weights of the environment
        # The runner lowers a forecast to what is known.
        np.testing.assert_array_equal(modes[0] == Mode.COMPUTE, best.schedule.modes == Mode.COMPUTE)


def test_a_file_for_another_model_or_out_of_reach_is_refused(
    found: dict[str, Policy], tiny_folder: Path
) -> None:
    pipe, policy = open_pipeline(str(tiny_folder), device="cpu"), Policy.best_of(found.values())
    with pytest.raises(BudgetError, match="within reach"):
        dc.attach(pipe, policy, budget=0.3)
    with pytest.raises(ConfigError, match="knows its sites"):
        dc.attach(pipe, policy, sites=2)

    other = build_tiny_pipe()
    other.transformer.proj_out.bias.data += 1
    with pytest.raises(ArtifactError, match="another model"):
        dc.attach(other, policy)


def test_a_method_that_cannot_measure_the_pipeline_is_left_out(
    tiny_env: Path, tmp_path: Path
) -> None:
    config = load_env(tiny_env)
    # The deep branch of a U-Net, which no replay takes apart.
    source, call = str(save_unet_pipe(tmp_path)), dict(CALL)
    config = replace(
        config,
        steps=[4],
        cache=replace(config.cache, sites=1),
        pipeline=replace(config.pipeline, source=source, call=call),
    )
    heard = Heard()
    settings = options(tmp_path, methods=["uniform", "dp"], budgets=[0.5], prompts=1)

    search_schedules(config, settings, progress=heard)

    assert list(load_schedules(settings.out)) == ["uniform"]
    (note,) = heard.notes
    assert note.startswith(
        "left out dp: expected a transformer whose blocks and their arguments are known by name"
    )
    with pytest.raises(UnsupportedModelError):
        search_schedules(config, replace(settings, methods=["dp"]))
