from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ditcache_rl.config import ALGORITHMS, AgentConfig, load_env
from ditcache_rl.control import best_actions
from ditcache_rl.errors import ConfigError
from ditcache_rl.rl.agents import FlatActions, check_agent, make_agent, settings_of
from ditcache_rl.rl.policy import exported
from ditcache_rl.schedules.patterns import action_prior
from tests.kit.bandit import FEATURES, PATTERNS, TIERS, Bandit, Blank

FAST_PPO = {"learning_rate": 1e-2, "batch_size": 512, "target_kl": 0.2}
#: Settings, and steps of all rows, in which an optimum that pays 1 in every context is found.
FAST: dict[str, tuple[dict[str, Any], int]] = {
    "maskable": (FAST_PPO, 256),
    "plain": (FAST_PPO, 256),
    "recurrent": (FAST_PPO | {"n_epochs": 3}, 192),
    "a2c": ({"learning_rate": 5e-3}, 640),
    "dqn": ({"learning_rate": 3e-3, "exploration_initial_eps": 0.5}, 256),
}


def blank_agent(algorithm: str, **settings: Any) -> BaseAlgorithm:
    config = AgentConfig(algorithm=algorithm, settings=settings)
    return make_agent(DummyVecEnv([Blank]), config, episode_steps=4, seed=0)


def pairs(model: BaseAlgorithm, obs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return what a model does greedily, as pairs of pattern and tier."""
    actions, _ = model.predict(obs, deterministic=True)
    if actions.ndim == 1:
        return np.stack(np.divmod(actions, TIERS), axis=-1)
    return actions


def shaken(model: BaseAlgorithm) -> BaseAlgorithm:
    """Give a model random weights, as if it had learned a lot."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_starts_at_the_schedule(algorithm: str) -> None:
    rng = np.random.default_rng(1)
    wanted = rng.integers(PATTERNS, size=100)
    prior = action_prior(wanted, PATTERNS, TIERS, sharpness=4.0)
    obs = np.concatenate([rng.uniform(-5, 5, (100, FEATURES)), prior], axis=1)

    actions = pairs(blank_agent(algorithm), obs.astype(np.float32))

    np.testing.assert_array_equal(actions, np.stack([wanted, np.zeros(100)], axis=1))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_finds_an_optimum_that_the_prior_is_wrong_about(algorithm: str) -> None:
    env = Bandit()
    settings, steps = FAST[algorithm]
    config = AgentConfig(algorithm=algorithm, settings=settings)
    model = make_agent(env, config, episode_steps=8, seed=0)
    assert (pairs(model, env._draw())[:, 0] != env._paying).all()

    model.learn(steps * env.rows)

    paid = [(pairs(model, env._draw())[:, 0] == env._paying).mean() for _ in range(20)]
    assert np.mean(paid) >= 0.9


def test_flat_actions_are_all_pairs_in_order() -> None:
    bandit = Bandit()
    env = FlatActions(bandit)
    env.reset()

    seen = []
    for start in range(0, PATTERNS * TIERS, 4):
        env.step_async(np.arange(start, start + 4))
        seen += bandit._actions.tolist()

    assert seen == [[p, t] for p in range(PATTERNS) for t in range(TIERS)]
    assert env.action_space.n == PATTERNS * TIERS  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        ("maskable", {"clip_rage": 0.1}, "'clip_rage' is no setting of 'maskable'.*'clip_range'?"),
        ("a2c", {"clip_range": 0.1}, "'clip_range' is no setting of 'a2c'"),
        ("dqn", {"seed": 3}, "'seed' is no setting of 'dqn'"),
        ("plain", {"policy_kwargs": {}}, "'policy_kwargs' is no setting"),
        ("plain", {"n_epochs": 2.5}, "n_epochs must be int, received 2.5"),
        ("plain", {"n_epochs": True}, "n_epochs must be int, received True"),
        ("plain", {"learning_rate": "fast"}, "learning_rate must be float, received 'fast'"),
        ("plain", {"batch_size": 1}, "'plain' does not take them: .*batch_size"),
        ("a2c", {"learning_rate": -1.0}, "'a2c' does not take them: .*learning rate: -1"),
    ],
)
def test_a_setting_that_does_not_fit_is_named_with_the_nearest_that_does(
    algorithm: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=r"\[agent.settings\] " + message):
        blank_agent(algorithm, **settings)


def test_a_setting_reaches_the_algorithm_and_the_others_keep_ours() -> None:
    model = blank_agent("plain", n_epochs=3, learning_rate=1, max_grad_norm=0.25)

    assert isinstance(model, PPO)
    assert (model.n_epochs, model.max_grad_norm, model.gae_lambda) == (3, 0.25, 1.0)
    assert [model.lr_schedule(left) for left in (1, 0.5, 0)] == [1.0, 0.5, 0.05]
    assert model.batch_size == 4  # what one call plays, of its one row
    assert settings_of(AgentConfig(settings={"n_epochs": 3}))["clip_range"] == 0.2


def test_settings_of_a_file_are_checked_with_its_name(tiny_env: Path) -> None:
    config = load_env(tiny_env)
    wrong = replace(config, agent=replace(config.agent, settings={"epochs": 2}))

    check_agent(config)
    with pytest.raises(ConfigError, match=r"tiny.toml: \[agent.settings\].*mean 'n_epochs'?"):
        check_agent(wrong)


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "recurrent"])
def test_an_export_does_what_the_model_does(algorithm: str) -> None:
    model = shaken(blank_agent(algorithm))
    rng = np.random.default_rng(2)
    obs = rng.uniform(-8, 8, (1000, FEATURES + PATTERNS + TIERS)).astype(np.float32)

    logits = exported(model).on_host()(obs)

    ours = best_actions(logits, np.ones_like(logits, dtype=bool), PATTERNS)
    np.testing.assert_array_equal(ours, pairs(model, obs))
    assert len(np.unique(ours, axis=0)) == PATTERNS * TIERS


@pytest.mark.parametrize("widths", [[64, 64], [32], [16, 24, 8]])
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_layers_of_ones_own_are_exported_as_they_are(algorithm: Any, widths: list[int]) -> None:
    model = algorithm(
        "MlpPolicy", DummyVecEnv([Blank]), n_steps=64, policy_kwargs={"net_arch": widths}
    )
    shaken(model)
    rng = np.random.default_rng(3)
    obs = rng.normal(size=(1000, FEATURES + PATTERNS + TIERS)).astype(np.float32)

    network = exported(model)
    logits = network.on_host()(obs)

    assert network.widths == tuple(widths)
    torch.testing.assert_close(torch.from_numpy(logits), network(torch.from_numpy(obs)))
    ours = best_actions(logits, np.ones_like(logits, dtype=bool), PATTERNS)
    np.testing.assert_array_equal(ours, pairs(model, obs))


def test_networks_of_another_shape_are_refused_with_the_reason() -> None:
    blank = DummyVecEnv([Blank])
    relu = PPO("MlpPolicy", blank, policy_kwargs={"activation_fn": torch.nn.ReLU})
    normalized = PPO("MlpPolicy", VecNormalize(blank))
    flat = DQN("MlpPolicy", FlatActions(blank), buffer_size=10)

    for model in (relu, flat, blank_agent("recurrent")):
        with pytest.raises(ConfigError, match=f"received {type(model.policy).__name__}"):
            exported(model)
    with pytest.raises(ConfigError, match="without VecNormalize"):
        exported(normalized)
