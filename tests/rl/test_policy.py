from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ditcache_rl.config import PPOConfig
from ditcache_rl.control import best_actions
from ditcache_rl.rl.learn import make_ppo
from ditcache_rl.rl.policy import MaskablePriorPolicy, exported
from ditcache_rl.schedules.patterns import action_prior

PATTERNS, TIERS, FEATURES = 4, 2, 6


class Blank(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """Has the spaces of a denoising environment and nothing else."""

    def __init__(self) -> None:
        self.observation_space: Any = spaces.Box(-10, 10, (FEATURES + PATTERNS + TIERS,))
        self.action_space: Any = spaces.MultiDiscrete([PATTERNS, TIERS])


@pytest.fixture(scope="module")
def model() -> MaskablePPO:
    return make_ppo(DummyVecEnv([Blank]), PPOConfig(), episode_steps=4, seed=0)


class Bandit(VecEnv):
    """Contexts name the pattern that pays; the prior prefers the next one.

    The observation is laid out as that of a denoising environment: features, then the log-prior.
    """

    rows = 64

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        blank = Blank()
        super().__init__(self.rows, blank.observation_space, blank.action_space)

    def _draw(self) -> NDArray[np.float32]:
        self._paying = self._rng.integers(PATTERNS, size=self.rows)
        features = np.zeros((self.rows, FEATURES))
        features[np.arange(self.rows), self._paying] = 1
        wrong = (self._paying + 1) % PATTERNS
        prior = action_prior(wrong, PATTERNS, TIERS, sharpness=2.0)
        return np.concatenate([features, prior], axis=1).astype(np.float32)

    def reset(self) -> NDArray[np.float32]:
        return self._draw()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        rewards = (self._actions[:, 0] == self._paying).astype(np.float32)
        return self._draw(), rewards, np.ones(self.rows, bool), [{} for _ in range(self.rows)]

    def env_method(self, *_: Any, **__: Any) -> list[Any]:
        return list(np.ones((self.rows, PATTERNS + TIERS), dtype=bool))

    def has_attr(self, attr_name: str) -> bool:
        return attr_name == "action_masks"

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.rows

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.rows

    def close(self) -> None:
        pass


def random_masks(rng: np.random.Generator, rows: int) -> NDArray[np.bool_]:
    """Draw masks that leave at least one pattern and one tier to every row."""
    masks = rng.random((rows, PATTERNS + TIERS)) < 0.5
    masks[np.arange(rows), rng.integers(PATTERNS, size=rows)] = True
    masks[np.arange(rows), PATTERNS + rng.integers(TIERS, size=rows)] = True
    return masks


def predict(model: MaskablePPO, obs: NDArray[Any], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    actions, _ = model.predict(obs, deterministic=True, action_masks=masks)
    return np.asarray(actions)


def test_a_policy_starts_exactly_at_its_schedule(model: MaskablePPO) -> None:
    rng = np.random.default_rng(1)
    scheduled = rng.integers(PATTERNS, size=(500, 7))
    features = rng.uniform(-5, 5, (500, FEATURES))
    masks = random_masks(rng, 500)
    masks[np.arange(500), scheduled[:, 3]] = masks[:, PATTERNS] = True
    obs = np.concatenate(
        [features, action_prior(scheduled[:, 3], PATTERNS, TIERS, sharpness=4.0)], axis=1
    )

    actions = predict(model, obs.astype(np.float32), masks)

    np.testing.assert_array_equal(actions, np.stack([scheduled[:, 3], np.zeros(500)], axis=1))


def test_a_scheduled_action_has_19_parts_in_20_of_the_probability(model: MaskablePPO) -> None:
    prior = action_prior(np.array([2]), PATTERNS, TIERS, sharpness=4.0)
    obs = np.concatenate([np.ones((1, FEATURES)), prior], axis=1).astype(np.float32)

    policy = model.policy
    distribution = policy.get_distribution(torch.from_numpy(obs))

    patterns = distribution.distributions[0].probs[0]
    expected = np.exp(4) / (np.exp(4) + 3)
    assert patterns[2].item() == pytest.approx(expected) == pytest.approx(0.948, abs=1e-3)


def test_an_export_decides_as_the_policy_that_was_trained(model: MaskablePPO) -> None:
    rng = np.random.default_rng(2)
    policy = model.policy
    assert isinstance(policy, MaskablePriorPolicy)
    start = {name: value.clone() for name, value in policy.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as if it had learned a lot
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    obs = rng.uniform(-8, 8, (10_000, FEATURES + PATTERNS + TIERS)).astype(np.float32)
    masks = random_masks(rng, 10_000)

    network = exported(policy)
    logits = network.on_host()(obs)
    ours, theirs = best_actions(logits, masks, PATTERNS), predict(model, obs, masks)
    policy.load_state_dict(start)

    np.testing.assert_array_equal(ours, theirs)
    # Not the prior, and not a constant: the network has its say, and so have the masks.
    assert (ours[:, 0] != obs[:, FEATURES : FEATURES + PATTERNS].argmax(1)).mean() > 0.2
    assert len(np.unique(ours, axis=0)) == PATTERNS * TIERS
    assert masks[np.arange(10_000), ours[:, 0]].all()
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_learning_finds_an_optimum_that_the_prior_is_wrong_about() -> None:
    env = Bandit()
    config = PPOConfig(learning_rate=5e-3, batch_size=512, n_epochs=6, target_kl=0.1)
    model = make_ppo(env, config, episode_steps=8, seed=0)
    obs = env._draw()
    masks = np.ones((env.rows, PATTERNS + TIERS), dtype=bool)
    paid_before = (predict(model, obs, masks)[:, 0] == env._paying).mean()

    model.learn(20 * 32 * env.rows)

    paid = []
    for _ in range(20):
        obs = env._draw()
        paid.append((predict(model, obs, masks)[:, 0] == env._paying).mean())
    assert paid_before == 0
    assert np.mean(paid) >= 0.95  # the optimum pays 1 in every context
