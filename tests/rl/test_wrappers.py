"""What whoever does RL puts around an environment, or runs on it."""

import multiprocessing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecMonitor,
    VecNormalize,
)

from ditcache_rl.bench import cases_of
from ditcache_rl.config import load_env
from ditcache_rl.rl import DenoiseEnv, DenoiseVecEnv, Scenario, Task


@pytest.fixture
def env(tiny_env: Path) -> DenoiseEnv:
    return DenoiseEnv(str(tiny_env), render_mode="rgb_array")


def play(env: gym.Env[Any, Any]) -> tuple[Any, dict[str, Any], int]:
    """Play an episode of random actions: the last observation, the last info, and its steps."""
    env.reset(seed=0)
    env.action_space.seed(0)
    for step in range(10):
        obs, _, ended, truncated, info = env.step(env.action_space.sample())
        if ended or truncated:
            return obs, info, step + 1
    raise AssertionError("an episode ends")


def test_the_checker_of_sb3_finds_nothing(env: DenoiseEnv) -> None:
    check_env(env)
    env.close()


@pytest.mark.parametrize(
    ("wrap", "steps"),
    [
        (wrappers.RecordEpisodeStatistics, 4),
        (lambda env: wrappers.TimeLimit(env, 2), 2),
        (wrappers.FlattenObservation, 4),
        (wrappers.NormalizeObservation, 4),
        (wrappers.NormalizeReward, 4),
        (lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 9)), 4),
        (lambda env: wrappers.FrameStackObservation(env, 2), 4),
        (lambda env: wrappers.RescaleObservation(env, np.float32(-1), np.float32(1)), 4),
        (lambda env: wrappers.Autoreset(env), 4),
        (wrappers.RenderCollection, 4),
        (Monitor, 4),
    ],
)
def test_common_wrappers_take_it(env: DenoiseEnv, wrap: Any, steps: int) -> None:
    wrapped = wrap(env)

    obs, info, taken = play(wrapped)

    assert taken == steps
    assert obs in wrapped.observation_space
    assert ("psnr_db" in info) == (steps == 4)
    wrapped.close()


def test_statistics_are_those_of_the_episode(env: DenoiseEnv) -> None:
    wrapped = wrappers.RecordEpisodeStatistics(env)

    _, info, _ = play(wrapped)

    terms = [info[f"reward/{name}"] for name in ("psnr", "ssim", "latency")]
    assert info["episode"]["r"] == pytest.approx(sum(terms), abs=1e-5)
    assert info["episode"]["l"] == 4
    wrapped.close()


def test_an_episode_is_recorded_as_a_video(env: DenoiseEnv, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    videos = tmp_path / "videos"
    recorded: Any = wrappers.RecordVideo(env, str(videos), episode_trigger=lambda episode: True)

    play(recorded)
    recorded.close()

    (video,) = videos.glob("*.mp4")
    assert video.stat().st_size > 500


def test_vectorisers_of_gymnasium_and_sb3_agree(tiny_env: Path) -> None:
    def make() -> DenoiseEnv:
        return DenoiseEnv(str(tiny_env))

    sync, dummy = gym.vector.SyncVectorEnv([make, make]), DummyVecEnv([make, make])
    dummy.seed(3)
    obs, other = sync.reset(seed=3)[0], dummy.reset()
    actions = np.array([[0, 0], [2, 0]])

    for step in range(4):
        np.testing.assert_array_equal(obs, other)
        obs, rewards, ended, _, _ = sync.step(actions)
        other, paid, dones, infos = dummy.step(actions)
        np.testing.assert_allclose(rewards, paid, rtol=1e-6)
        np.testing.assert_array_equal(ended, dones)
        if step == 3:
            other = np.stack([info["terminal_observation"] for info in infos])
            np.testing.assert_array_equal(obs, other)
    sync.close()
    dummy.close()


@pytest.mark.slow
def test_processes_of_their_own_agree_with_one(tiny_env: Path) -> None:
    def make() -> DenoiseEnv:
        return DenoiseEnv(str(tiny_env))

    multiprocessing.set_forkserver_preload([DenoiseEnv.__module__])  # once for both of them
    apart = SubprocVecEnv([make, make], start_method="forkserver")
    one = DummyVecEnv([make, make])
    for env in (apart, one):
        env.seed(3)
    np.testing.assert_array_equal(apart.reset(), one.reset())
    actions = np.array([[0, 0], [1, 0]])
    for a, b in zip(apart.step(actions), one.step(actions), strict=True):
        np.testing.assert_array_equal(a, b)
    apart.close()
    one.close()


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_algorithms_of_sb3_learn_on_single_environments(env: DenoiseEnv, algorithm: Any) -> None:
    sizes = {"n_steps": 8, "batch_size": 8} if algorithm is PPO else {"n_steps": 8}
    model = algorithm("MlpPolicy", Monitor(env), seed=0, **sizes)

    model.learn(16)
    mean, _ = evaluate_policy(model, Monitor(env), n_eval_episodes=1)

    assert np.isfinite(mean)
    env.close()


@pytest.mark.parametrize(
    "wrap", [VecMonitor, VecCheckNan, lambda env: VecNormalize(env, norm_obs=False)]
)
def test_wrappers_of_sb3_take_the_rows_of_one_call(tiny_env: Path, wrap: Any) -> None:
    scenario = Scenario.nominal(load_env(tiny_env))
    rng, cases = np.random.default_rng(0), cases_of(scenario.config, "train")
    env = wrap(DenoiseVecEnv(scenario, 4, lambda: Task.drawn(scenario, cases, rng)))
    model = MaskablePPO("MlpPolicy", env, n_steps=4, batch_size=16, seed=0)

    model.learn(32)
    names = env.get_attr("observation_names")[0]
    env.close()

    assert model.num_timesteps == 32
    assert len(names) == env.observation_space.shape[0]
