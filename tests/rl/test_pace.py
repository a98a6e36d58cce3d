from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl.bench import Board, Case
from ditcache_rl.config import WorldConfig
from ditcache_rl.errors import ArtifactError, UnsupportedModelError
from ditcache_rl.rl import forecast, gaps, judge, pace
from ditcache_rl.rl.retarget import retarget
from ditcache_rl.rl.train import TrainOptions, train
from ditcache_rl.schedules import CostModel
from ditcache_rl.search import gaps as fits
from ditcache_rl.world import DeadlineController
from tests.kit.environment import PROMPTS, levels_of, tiny_config, untrained_policy
from tests.kit.pacers import tiny_pacer

STEPS = 6
COST = CostModel(
    fixed_s=0.002, step_s=1e-5, site_s=0.01, forecast_s=0.0, num_inference_steps=STEPS, sites=1
)
CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS["train"])]


@pytest.fixture
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw and simulate little."""
    few: dict[Any, dict[str, int]] = {
        fits: {"_OPEN_FITS": 100, "_FITS": 30},
        forecast: {"_BATCHES": 2},
        gaps: {"_ROUNDS": 1, "_PATHS": 8, "_SCALED": 4},
        judge: {"_COMPARE": 60},
        pace: {"_CHOOSE": 30, "_BATCH": 30},
    }
    for module, values in few.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


def test_ends_of_a_call_are_measured_and_small(board: Board) -> None:
    prices = gaps.measure_ends(board, CASES[0], COST, repeats=2)

    assert prices.before > 0
    # The cost model knows what a call takes beside its steps.
    assert prices.before + prices.after >= COST.fixed_s / (COST.site_s + COST.step_s) - 1e-9
    assert 0 < prices.idle < 0.01


def test_a_stage_makes_a_pacer_that_keeps_deadlines_and_is_made_once(
    board: Board, small: None, tmp_path: Path
) -> None:
    class Heard(BaseCallback):
        def _on_step(self) -> bool:
            return True

    heard = Heard()
    world = WorldConfig(loads=["slow", "fast"], deadlines=[0.4, 0.9], images=300)

    def made() -> Any:
        return pace.pace_stage(
            world,
            board,
            COST,
            CASES,
            file=tmp_path / "pacer-6.json",
            seed=0,
            callbacks=[heard],
            tick=lambda share, note: None,
        )

    pacer, facts = made()
    calls = heard.n_calls
    again, same = made()

    assert {one["contender"] for one in facts["standings"]} >= {"agent", "replanning"}
    assert heard.n_calls == calls > 0
    assert facts == same
    assert pacer.pacing == again.pacing
    np.testing.assert_array_equal(pacer.costs.astype(np.float32), again.costs.astype(np.float32))
    drawn = board.draw(CASES[:1], DeadlineController(pacer, 1e-6))
    assert drawn.log is not None
    assert drawn.log.compute_share[0] == pytest.approx(1 / STEPS)


def test_without_loads_there_is_no_pacer(board: Board, tmp_path: Path) -> None:
    made = pace.pace_stage(
        WorldConfig(), board, COST, CASES, file=tmp_path / "x.json", seed=0, tick=lambda *_: None
    )

    assert made is None


def test_what_keeps_deadlines_is_left_out_for_other_weights(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call)
    policy = replace(policy, pacer=tiny_pacer(levels_of(tiny_pipe, tiny_call, policy.steps[0])))

    other = retarget(policy, tiny_pipe, tiny_config(tmp_path, tiny_call))

    assert other.pacer is None


def test_a_pipeline_whose_gaps_can_not_be_fitted_is_refused_before_other_work(
    tiny_folder: Path, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, tiny_call, source=str(tiny_folder), world='loads = ["slow"]')
    run = tmp_path / "run"

    with pytest.raises(UnsupportedModelError, match="as a whole"):
        train(config, TrainOptions(run, tmp_path / "policy", False, 0, "none"))

    assert not list(run.glob("sample-*"))


def test_what_is_no_recorded_load_is_refused_before_other_work(
    tiny_folder: Path, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"nothing")
    world = 'loads = ["mine.safetensors"]'
    config = tiny_config(tmp_path, tiny_call, source=str(tiny_folder), world=world)

    with pytest.raises(ArtifactError, match=r"mine\.safetensors: expected safetensors"):
        train(config, TrainOptions(tmp_path / "run", tmp_path / "policy", False, 0, "none"))

    assert not (tmp_path / "run").exists()
