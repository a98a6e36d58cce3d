"""Images with deadlines as an environment of Gymnasium, and models of one's own that keep them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env as check_sb3

from ditcache_rl.cli.tables import render_deadlines
from ditcache_rl.errors import ConfigError, ShapeError, StateError
from ditcache_rl.policy import load_policy, save_policy
from ditcache_rl.rl import DeadlineEnv, DeadlineVecEnv, MaskablePriorPolicy, export_pacer, judge
from ditcache_rl.rl.deadline_learn import learn_deadlines
from ditcache_rl.world import tuning
from tests.kit.curves import events_of
from tests.kit.environment import levels_of, untrained_policy
from tests.kit.pacers import tiny_pacer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


@pytest.fixture(scope="module")
def policy(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a policy whose agent does what its prior does."""
    made = untrained_policy(tiny_pipe, tiny_call)
    pacer = tiny_pacer(levels_of(tiny_pipe, tiny_call, made.steps[0]), agent=True)
    folder = tmp_path_factory.mktemp("policy") / "paced"
    save_policy(replace(made, pacer=pacer), folder, card="")
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge on few images."""
    monkeypatch.setattr(judge, "_COMPARE", 120)
    monkeypatch.setattr(tuning, "_TUNE", 60)


def test_the_environment_passes_the_checks_of_gymnasium_and_sb3() -> None:
    env = gym.make("ditcache/deadline-v0")

    check_env(env.unwrapped, skip_render_check=True)
    check_sb3(env)


def test_an_episode_is_an_image_that_tells_whether_it_came_in_time(policy: Path) -> None:
    env = DeadlineEnv(policy, loads=["fast"])
    seen, info = env.reset(seed=4)
    assert seen.shape == (len(env.observation_names),)
    assert info["load"] == "fast"
    steps, ended = 0, False
    while not ended:
        wanted = np.int64(env.action_masks().argmax())  # compute where nothing else is allowed
        seen, _, ended, _, info = env.step(wanted)
        steps += 1

    assert steps == load_policy(policy).steps[0]
    assert info["in_time"] in (True, False)
    assert info["computes"] == 1
    with pytest.raises(StateError, match="expected reset"):
        env.step(np.int64(0))


def test_a_seed_gives_the_same_image(policy: Path) -> None:
    first, second = DeadlineEnv(policy), DeadlineEnv(policy)

    np.testing.assert_array_equal(first.reset(seed=7)[0], second.reset(seed=7)[0])
    for action in (1, 0, 1):
        one, other = first.step(np.int64(action)), second.step(np.int64(action))
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]


def test_what_is_no_action_load_or_policy_is_refused(policy: Path, tmp_path: Path) -> None:
    env = DeadlineEnv(policy)
    with pytest.raises(StateError, match="reset"):
        env.action_masks()
    env.reset(seed=0)
    with pytest.raises(ShapeError, match=r"in \[0, 1\], received"):
        env.step(np.int64(2))
    rows = DeadlineVecEnv.of(policy, rows=6)
    with pytest.raises(ShapeError, match=r"received float64 of shape \(6, 1\)"):
        rows.step_async(np.ones((6, 1)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected a load among slow, .* received 'quick'"):
        DeadlineEnv(policy, loads=["quick"])
    with pytest.raises(ConfigError, match="received 3 loads and 2 rows"):
        DeadlineVecEnv.of(policy, rows=2)
    with pytest.raises(ConfigError, match="received 0 loads"):
        DeadlineVecEnv.of(policy, loads=[])
    still = load_policy(policy)
    save_policy(replace(still, pacer=None), tmp_path / "still", card="")
    with pytest.raises(ConfigError, match="expected a policy that keeps deadlines"):
        DeadlineEnv(tmp_path / "still")


def test_curves_show_the_agent_beside_its_opponents_in_one_file(
    policy: Path, tmp_path: Path
) -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return False

    rows = DeadlineVecEnv.of(policy, rows=30)
    steps = load_policy(policy).steps[0]
    options: Any = {"steps": steps, "seed": 0, "folder": tmp_path}

    learn_deadlines(rows, images=60, **options, callbacks=[Stop()])  # is interrupted
    learn_deadlines(rows, images=90, **options, opponents={"static": 41.0, "replanning": 43.0})

    events = events_of(tmp_path)  # the only file
    told = {name: events.Scalars(f"score_db/{name}") for name in ("agent", "static", "replanning")}
    assert {len(one) for one in told.values()} == {3}, "one value each rollout, of the last run"
    assert {one.value for one in told["static"]} == {41.0}
    assert all(0.0 <= one.value <= 60.0 for one in told["agent"])


@pytest.mark.usefixtures("small")
def test_a_model_of_ones_own_keeps_the_deadlines_of_a_policy(policy: Path, tmp_path: Path) -> None:
    rows = DeadlineVecEnv.of(policy, rows=30)
    model = MaskablePPO(MaskablePriorPolicy, rows, n_steps=4, batch_size=30, seed=0)
    model.learn(30 * 4)

    folder = export_pacer(model, policy, tmp_path / "mine", loads=["slow", "fast"])

    made, before = load_policy(folder), load_policy(policy)
    assert made.pacer is not None
    assert made.pacer.network is not None
    assert before.pacer is not None
    assert made.tables.keys() == before.tables.keys()
    assert made.pacer.network.head.weight.abs().max() > 0, "it was trained"
    facts = made.metrics["deadlines"]
    assert facts["decides"] == made.pacer.pacing.decides
    assert {one["load"] for one in facts["standings"]} == {"slow", "fast"}
    with pytest.raises(ConfigError, match="mine exists"):
        export_pacer(model, policy, tmp_path / "mine")


def test_a_model_of_another_shape_keeps_no_deadlines(policy: Path, tmp_path: Path) -> None:
    rows = DeadlineVecEnv.of(policy, rows=6)
    other = A2C("MlpPolicy", rows, policy_kwargs={"net_arch": [8]})

    with pytest.raises(ConfigError, match="expected a network with weights of"):
        export_pacer(other, policy, tmp_path / "mine")

    assert not (tmp_path / "mine").exists()


def test_the_final_table_has_every_contender_under_every_load() -> None:
    shipped = load_policy(Path(__file__).parents[2] / "policies" / "shapes-ppo")
    standings = shipped.metrics["deadlines"]["standings"]

    table = render_deadlines(shipped)

    loads, contenders, in_time, _, scores = (list(column.cells) for column in table.columns)
    assert [name for name in loads if name] == list(dict.fromkeys(x["load"] for x in standings))
    assert contenders == [one["contender"] for one in standings]
    for share, score, one in zip(in_time, scores, standings, strict=True):
        assert math.isclose(float(str(share).strip("%")) / 100, one["kept_share"], abs_tol=6e-4)
        assert math.isclose(float(str(score).split()[0]), one["score_db"], abs_tol=0.06)
