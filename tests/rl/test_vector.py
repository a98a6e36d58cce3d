from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics

from ditcache_rl.errors import ShapeError
from ditcache_rl.rl import DenoiseEnv, DenoiseVectorEnv

ROWS = 3


@pytest.fixture
def env(tiny_env: Path) -> DenoiseVectorEnv:
    return DenoiseVectorEnv(ROWS, str(tiny_env), render_mode="rgb_array")


def test_rows_do_what_single_environments_do(env: DenoiseVectorEnv, tiny_env: Path) -> None:
    alone = SyncVectorEnv([lambda: DenoiseEnv(str(tiny_env))] * ROWS)
    rng = np.random.default_rng(0)

    (obs_a, info_a), (obs_b, info_b) = env.reset(seed=4), alone.reset(seed=4)
    for _ in range(12):  # two episodes of four steps, and the beginnings between
        # Rows of larger batches differ by rounding in the pipeline.
        np.testing.assert_allclose(obs_a, obs_b, atol=1e-3)
        assert info_a.keys() == info_b.keys()
        for name, values in info_a.items():
            if values.dtype == np.float64:
                np.testing.assert_allclose(values, info_b[name], atol=0.05)  # decibels
            else:
                np.testing.assert_array_equal(values, info_b[name])
        actions = rng.integers([4, 2], size=(ROWS, 2))
        obs_a, reward_a, *ends_a, info_a = env.step(actions)
        obs_b, reward_b, *ends_b, info_b = alone.step(actions)
        np.testing.assert_allclose(reward_a, reward_b, atol=0.02)
        np.testing.assert_array_equal(ends_a, ends_b)
    env.close()
    alone.close()


def test_make_vec_takes_the_rows_of_one_call_unless_asked_otherwise() -> None:
    one = gym.make_vec("ditcache/shapes-v0", num_envs=2)
    many = gym.make_vec("ditcache/shapes-v0", num_envs=2, vectorization_mode="sync")

    assert isinstance(one, DenoiseVectorEnv)
    assert isinstance(many, SyncVectorEnv)
    assert one.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert one.observation_space == many.observation_space
    assert one.action_space == many.action_space
    assert one.spec is not None
    assert one.spec.kwargs == {
        "config": "shapes",
        "num_envs": 2,
        "vectorization_mode": "vector_entry_point",
    }
    one.close()
    many.close()


def test_vector_wrappers_take_it(env: DenoiseVectorEnv) -> None:
    wrapped = RecordEpisodeStatistics(NormalizeObservation(env))
    wrapped.reset(seed=0)

    for step in range(4):
        obs, rewards, ended, _, infos = wrapped.step(np.zeros((ROWS, 2), dtype=np.int64))
        assert ended.all() == (step == 3)
    frames = env.render()
    wrapped.close()

    assert obs.shape == (ROWS, len(env.observation_names))
    np.testing.assert_allclose(infos["episode"]["r"], rewards)
    assert infos["episode"]["l"].tolist() == [4] * ROWS
    assert frames is not None
    assert len(frames) == ROWS
    assert all(frame.std() > 0 for frame in frames)


def test_actions_of_another_shape_are_refused(env: DenoiseVectorEnv) -> None:
    env.reset(seed=0)

    for actions in (np.zeros(2, dtype=int), np.zeros((ROWS, 2)), [[0, 0], [0, 0], [0, 9]]):
        with pytest.raises(ShapeError, match=r"integers of shape \(3, 2\)"):
            env.step(actions)  # type: ignore[arg-type]
    env.close()


def test_a_seed_is_drawn_where_none_is_given(env: DenoiseVectorEnv) -> None:
    (first, _), (second, _) = env.reset(), env.reset()

    assert not np.array_equal(first, second)
    assert env.action_masks().shape == (ROWS, sum(map(len, env.action_names)))
    env.close()


def test_rows_are_watched_only_if_asked(tiny_env: Path, tiny_call: dict[str, Any]) -> None:
    blind = DenoiseVectorEnv(ROWS, str(tiny_env))
    blind.reset(seed=0)

    assert blind.render() is None
    blind.close()
