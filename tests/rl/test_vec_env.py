import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from ditcache_rl.bench import cases_of
from ditcache_rl.control import best_actions
from ditcache_rl.errors import StateError
from ditcache_rl.rl import DenoiseVecEnv, Scenario, Task
from ditcache_rl.rl.episodes import Outcome
from ditcache_rl.types import Mode, Tier
from tests.kit.environment import tiny_config, tiny_scenario

Heard = list[tuple[Outcome, NDArray[np.float64]]]


@pytest.fixture
def scenario(tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path) -> Scenario:
    return tiny_scenario(tiny_config(tmp_path, tiny_call), tiny_pipe)


@pytest.fixture
def tasks(scenario: Scenario) -> list[Task]:
    """Three numbers of computes, one tradeoff, two prompts."""
    first, second, _ = cases_of(scenario.config, "train")
    return [Task(first, 1, 0.0), Task(second, 2, 0.0), Task(first, 3, 0.0), Task(second, 0, 2.0)]


def vec_env(scenario: Scenario, tasks: Sequence[Task], heard: Heard | None = None) -> DenoiseVecEnv:
    draw = itertools.cycle(tasks).__next__
    note = None if heard is None else (lambda outcome, base: heard.append((outcome, base)))
    return DenoiseVecEnv(scenario, len(tasks), draw, on_outcome=note)


def rollout_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "ditcache-rollout"]


def scheduled(env: DenoiseVecEnv, obs: VecEnvObs) -> NDArray[np.int64]:
    """Do what the prior of the observation asks for."""
    assert isinstance(obs, np.ndarray)
    masks = env.action_masks()
    logits = obs[:, -masks.shape[1] :].astype(np.float64)
    return best_actions(logits, masks, masks.shape[1] - 2)


def test_rows_decide_for_themselves_and_end_together(scenario: Scenario, tasks: list[Task]) -> None:
    heard: Heard = []
    env = vec_env(scenario, tasks, heard)
    wanted = np.array(
        [
            [Mode.COMPUTE, Mode.COMPUTE, Mode.COMPUTE, Mode.COMPUTE],
            [Mode.REUSE, Mode.COMPUTE, Mode.COMPUTE, Mode.REUSE],
            [Mode.REUSE, Mode.FORECAST1, Mode.REUSE, Mode.COMPUTE],
            [Mode.REUSE, Mode.REUSE, Mode.COMPUTE, Mode.FORECAST1],
        ]
    )
    obs: Any = env.reset()

    for step, patterns in enumerate(wanted):
        before = obs
        actions = np.stack([patterns, np.full(4, Tier.DEVICE)], axis=1)
        obs, rewards, dones, infos = env.step(actions)
        assert dones.tolist() == [step == 3] * 4
        assert (rewards == 0).all() or step == 3
    env.close()

    ((outcome, baseline),) = heard
    np.testing.assert_array_equal(outcome.modes[:, :, 0], wanted)
    assert [info["compute_share"] for info in infos] == [0.25, 0.5, 0.75, 0.5]
    assert [info["baseline"] for info in infos] == baseline.tolist()
    for row, info in enumerate(infos):
        np.testing.assert_array_equal(info["terminal_observation"], before[row])
    assert obs.shape == before.shape
    assert not np.array_equal(obs, before)  # the next batch has begun


def test_the_reward_is_the_return_minus_that_of_the_schedule(
    scenario: Scenario, tasks: list[Task]
) -> None:
    heard: Heard = []
    env = vec_env(scenario, tasks, heard)
    env.reset()
    computes = np.tile([Mode.COMPUTE, Tier.DEVICE], (4, 1))

    for _ in range(4):
        _, rewards, _, _ = env.step(computes)  # projected where the budget does not allow it
    env.close()

    ((outcome, _),) = heard
    # Of a table that was never scored, a tradeoff follows the line in the middle of 1, 2, 3, 4.
    schedules = [scenario.table[task.computes or 3].schedule for task in tasks]
    static = scenario.board.score([task.case for task in tasks], schedules)
    weights = np.array([task.latency_weight for task in tasks])
    earned = 0.2 * outcome.quality.psnr_db + 3 * outcome.quality.ssim
    earned -= weights * outcome.compute_share
    base = 0.2 * static.psnr_db + 3 * static.ssim - weights * 0.75
    # Rows of smaller batches differ by rounding in the pipeline.
    np.testing.assert_allclose(rewards, earned - base, atol=1e-3)
    assert np.abs(rewards).max() > 0.01


def test_following_the_schedule_earns_nothing(scenario: Scenario, tasks: list[Task]) -> None:
    env = vec_env(scenario, tasks)
    obs = env.reset()

    for _ in range(4):
        obs, rewards, dones, _ = env.step(scheduled(env, obs))
    env.close()

    assert dones.all()
    np.testing.assert_allclose(rewards, 0, atol=1e-3)


def test_a_batch_can_be_left_in_the_middle(scenario: Scenario, tasks: list[Task]) -> None:
    env = vec_env(scenario, tasks)
    first = env.reset()
    env.step(scheduled(env, first))

    again = env.reset()  # the cycle of tasks begins anew
    np.testing.assert_array_equal(first, again)
    assert len(rollout_threads()) == 1
    env.step(scheduled(env, again))
    env.close()
    env.close()

    assert not rollout_threads()
    np.testing.assert_array_equal(env.reset(), first)
    env.close()


def test_rows_share_everything_but_their_masks(scenario: Scenario, tasks: list[Task]) -> None:
    env = vec_env(scenario, tasks)
    env.reset()

    masks = env.env_method("action_masks", indices=[1, 3])
    np.testing.assert_array_equal(masks, env.action_masks()[[1, 3]])
    assert env.has_attr("action_masks")
    assert not env.has_attr("render")
    assert env.get_attr("num_envs", indices=0) == [4]
    assert env.env_is_wrapped(DenoiseVecEnv) == [False] * 4
    with pytest.raises(StateError, match="received 'render'"):
        env.env_method("render")
    with pytest.raises(StateError, match="cannot set"):
        env.set_attr("num_envs", 1)
    with pytest.raises(StateError, match="step_async"):
        env.step_wait()
    env.close()
