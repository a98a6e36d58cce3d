from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import DummyVecEnv

from ditcache_rl.config import AgentConfig
from ditcache_rl.control import best_actions
from ditcache_rl.rl.agents import make_agent
from ditcache_rl.rl.policy import MaskablePriorPolicy, exported
from ditcache_rl.schedules.patterns import action_prior
from tests.kit.bandit import FEATURES, PATTERNS, TIERS, Blank


@pytest.fixture(scope="module")
def model() -> MaskablePPO:
    return make_agent(DummyVecEnv([Blank]), AgentConfig(), episode_steps=4, seed=0)


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

    network = exported(model)
    logits = network.on_host()(obs)
    ours, theirs = best_actions(logits, masks, PATTERNS), predict(model, obs, masks)
    policy.load_state_dict(start)

    np.testing.assert_array_equal(ours, theirs)
    # Not the prior, and not a constant: the network has its say, and so have the masks.
    assert (ours[:, 0] != obs[:, FEATURES : FEATURES + PATTERNS].argmax(1)).mean() > 0.2
    assert len(np.unique(ours, axis=0)) == PATTERNS * TIERS
    assert masks[np.arange(10_000), ours[:, 0]].all()
    assert not any(parameter.requires_grad for parameter in network.parameters())
