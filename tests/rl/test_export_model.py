from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

import ditcache_rl as dc
from ditcache_rl.bench import cases_of
from ditcache_rl.config import load_env
from ditcache_rl.control import PolicyNetwork
from ditcache_rl.errors import ConfigError
from ditcache_rl.policy import load_policy
from ditcache_rl.rl import DenoiseVecEnv, PlainPriorPolicy, Scenario, Task, export_model
from ditcache_rl.rl.policy import exported
from tests.kit.environment import STEPS, tiny_config, tiny_scenario, untrained_policy


@pytest.fixture
def scenario(tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path) -> Scenario:
    return tiny_scenario(tiny_config(tmp_path / "env", tiny_call), tiny_pipe)


def trained(scenario: Scenario, algorithm: Any, policy: Any, **settings: Any) -> BaseAlgorithm:
    rng, cases = np.random.default_rng(0), cases_of(scenario.config, "train")
    env = DenoiseVecEnv(scenario, 4, lambda: Task.drawn(scenario, cases, rng))
    model: BaseAlgorithm = algorithm(policy, env, n_steps=4, seed=0, **settings)
    model.learn(16)
    env.close()
    return model


@pytest.mark.parametrize("own", ["MlpPolicy", PlainPriorPolicy])
def test_a_model_of_ones_own_becomes_a_policy_in_one_call(
    own: Any,
    scenario: Scenario,
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tmp_path: Path,
) -> None:
    model = trained(scenario, A2C, own)

    folder = export_model(model, scenario, tmp_path / "policy", cost=scenario.cost)

    policy = load_policy(folder)
    network = exported(model)
    obs = torch.randn(20, len(scenario.actions.schema()))
    assert policy.network is not None
    torch.testing.assert_close(policy.network(obs), network(obs), rtol=0, atol=0)
    assert policy.manifest.env_id == "ditcache/tiny-v0"
    lines = policy.metrics["select"]
    assert len(lines) == 6  # three budgets and three weights on latency
    assert policy.manifest.network is not None
    used = [line["target"] for line in lines if line["network_used"] and "/" in line["target"]]
    assert policy.manifest.network.adaptive == {"4": [int(name[0]) for name in used]}
    assert "export_model(A2C)" in (folder / "README.md").read_text()
    with dc.cached(tiny_pipe, folder, budget=0.5) as run:
        tiny_pipe("a prompt", num_inference_steps=4, **tiny_call)
    assert run.logs[0].compute_share[0] == 0.5


def test_what_calls_cost_is_measured_where_it_is_not_given(
    scenario: Scenario, tmp_path: Path
) -> None:
    network = exported(trained(scenario, A2C, PlainPriorPolicy))

    folder = export_model(network, scenario, tmp_path / "policy")

    # Nominal prices are shares of one, those of a tiny pipeline a few milliseconds.
    assert 0 < load_policy(folder).cost.reference_s != scenario.cost.reference_s


def test_a_policy_is_not_replaced_unasked(scenario: Scenario, tmp_path: Path) -> None:
    network = exported(trained(scenario, A2C, PlainPriorPolicy))
    options: dict[str, Any] = {"cost": scenario.cost}
    export_model(network, scenario, tmp_path / "policy", **options)

    with pytest.raises(ConfigError, match="exists; use --force or another"):
        export_model(network, scenario, tmp_path / "policy", **options)
    export_model(network, scenario, tmp_path / "policy", **options, force=True)


def test_a_model_of_another_environment_is_refused(scenario: Scenario, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from 24 observations to 6 logits, received one from 3"):
        export_model(PolicyNetwork(3, 6), scenario, tmp_path / "policy")

    assert not (tmp_path / "policy").exists()


def test_a_network_of_another_shape_is_refused_before_anything_is_compared(
    scenario: Scenario, tmp_path: Path
) -> None:
    layers = {"policy_kwargs": {"activation_fn": torch.nn.ReLU}, "batch_size": 16}
    model = trained(scenario, PPO, "MlpPolicy", **layers)

    with pytest.raises(ConfigError, match="whose network a policy folder cannot hold"):
        export_model(model, scenario, tmp_path / "policy")


def test_a_scenario_starts_from_the_schedules_of_a_policy(
    tiny_env: Path, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call)
    config = load_env(tiny_env)

    scenario = Scenario.of(config, policy)

    assert scenario.table is policy.tables[STEPS[0]]
    assert scenario.cost == policy.cost
    other = replace(config, cache=replace(config.cache, sites=3))
    with pytest.raises(ConfigError, match=r"for 3 sites .*received one for 1"):
        Scenario.of(other, policy)
