from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO

import ditcache_rl as dc
from ditcache_rl.bench import cases_of
from ditcache_rl.control import NetworkController
from ditcache_rl.errors import ConfigError, ShapeError
from ditcache_rl.instrument import is_attached
from ditcache_rl.rl import (
    DenoiseEnv,
    DenoiseVecEnv,
    Hooks,
    OwnFeatures,
    PlainPriorPolicy,
    RewardTerms,
    Scenario,
    Task,
    export_model,
)
from ditcache_rl.rl.policy import exported
from ditcache_rl.types import Mode, StepInfo
from tests.kit.environment import tiny_config, tiny_scenario

#: The third site computes alone, which no pattern of ours does with reuse.
LAST = [Mode.REUSE, Mode.REUSE, Mode.COMPUTE]


def brightness(info: StepInfo) -> NDArray[np.float64]:
    """Return mean and spread of the latents of every row."""
    rows = info.latents.flatten(1)
    return torch.stack([rows.mean(1), rows.std(1)], dim=1).double().numpy()


FEATURES = OwnFeatures(("latents_mean", "latents_std"), brightness)


def half(terms: RewardTerms) -> NDArray[np.float64]:
    return terms.psnr / 2 - 1


@pytest.fixture
def scenario(tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path) -> Scenario:
    options: dict[str, Any] = {"sites": 3, "budgets": [0.5, 0.75], "tradeoff_share": 0.0}
    return tiny_scenario(tiny_config(tmp_path, tiny_call, **options), tiny_pipe)


def vec_env(scenario: Scenario, rows: int = 4) -> DenoiseVecEnv:
    rng, cases = np.random.default_rng(0), cases_of(scenario.config, "train")
    return DenoiseVecEnv(scenario, rows, lambda: Task.drawn(scenario, cases, rng))


def finished(env: DenoiseEnv, action: list[int]) -> tuple[float, dict[str, Any]]:
    """Play an episode, and return its reward and the last info."""
    env.reset(seed=2)
    while True:
        _, reward, ended, _, info = env.step(np.array(action))
        if ended:
            return reward, info


def test_a_reward_of_ones_own_is_what_environments_pay(scenario: Scenario) -> None:
    plain, plain_info = finished(DenoiseEnv(scenario=scenario), [0, 0])
    own, info = finished(DenoiseEnv(scenario=scenario, hooks=Hooks(reward=half)), [0, 0])

    assert own == pytest.approx(info["reward/psnr"] / 2 - 1)
    assert own != plain
    assert info == plain_info
    hooked = vec_env(replace(scenario, hooks=Hooks(reward=half)))
    hooked.reset()
    for _ in range(4):
        _, rewards, _, infos = hooked.step(np.tile([0, 0], (4, 1)))
    hooked.close()
    expected = [facts["reward/psnr"] / 2 - 1 - facts["baseline"] for facts in infos]
    np.testing.assert_allclose(rewards, expected, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [lambda terms: 1.0, lambda terms: terms.psnr[:, None], lambda terms: terms.psnr * np.nan],
)
def test_a_reward_that_is_no_number_per_row_is_refused(scenario: Scenario, wrong: Any) -> None:
    with pytest.raises(ShapeError, match=r"finite numbers of shape \(1,\) from the reward hook"):
        finished(DenoiseEnv(scenario=scenario, hooks=Hooks(reward=wrong)), [0, 0])


def test_features_of_ones_own_stand_under_their_names(scenario: Scenario) -> None:
    seen: list[NDArray[np.float64]] = []

    def noted(info: StepInfo) -> NDArray[np.float64]:
        seen.append(brightness(info))
        return seen[-1]

    hooks = Hooks(features=OwnFeatures(FEATURES.names, noted))
    env, plain = DenoiseEnv(scenario=scenario, hooks=hooks), DenoiseEnv(scenario=scenario)
    obs, _ = env.reset(seed=0)
    env.close()
    before, _ = plain.reset(seed=0)
    plain.close()

    named = dict(zip(env.observation_names, obs, strict=True))
    assert obs in env.observation_space
    np.testing.assert_allclose([named[name] for name in FEATURES.names], seen[0][0], rtol=1e-6)
    # Ours and the prior stay where they were: first and last.
    own = [env.observation_names.index(name) for name in FEATURES.names]
    np.testing.assert_array_equal(np.delete(obs, own), before)


@pytest.mark.parametrize("step", [0, 2])
def test_features_of_another_shape_are_refused_and_nothing_is_left_running(
    step: int, scenario: Scenario
) -> None:
    def wrong(info: StepInfo) -> NDArray[np.float64]:
        return brightness(info)[:, : 2 - (info.step == step)]

    env = DenoiseEnv(scenario=scenario, hooks=Hooks(features=OwnFeatures(("a", "b"), wrong)))

    with pytest.raises(ShapeError, match=rf"\(1, 2\) \(a, b\) at step {step}.* shape \(1, 1\)"):
        finished(env, [0, 0])

    assert not is_attached(scenario.board.pipe)


def test_a_pattern_of_ones_own_is_played_site_by_site(scenario: Scenario) -> None:
    env = DenoiseEnv(scenario=scenario, hooks=Hooks(patterns=[LAST]))
    number = len(env.action_names[0]) - 1

    assert env.action_names[0][number] == "2 reuse, 1 compute"
    env.reset(seed=2)
    env.step(np.array([0, 0]))
    _, _, _, _, info = env.step(np.array([number, 0]))
    env.close()
    assert not info["projected"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ([0, 1], r"3 modes in 0 to 3, received \[0, 1\]"),
        ([0, 1, 4], r"3 modes in 0 to 3, received \[0, 1, 4\]"),
        ([1, 1, 1], r"new, received \[1, 1, 1\] once more"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(
    scenario: Scenario, pattern: list[int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        DenoiseEnv(scenario=scenario, hooks=Hooks(patterns=[pattern]))


def test_what_was_learned_with_hooks_runs_in_the_pipeline_by_a_controller(
    scenario: Scenario, tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    scenario = replace(scenario, hooks=Hooks(features=FEATURES, patterns=[LAST]), baselines={})
    env = vec_env(scenario)
    model = PPO(PlainPriorPolicy, env, n_steps=8, batch_size=32, n_epochs=1)
    model.learn(32)
    env.close()
    schedule = scenario.table.within(6)

    controller = NetworkController(
        scenario.actions, exported(model), schedule=schedule, computes=6, latency_weight=0.0
    )
    with dc.cached(tiny_pipe, controller, sites=3) as run:
        tiny_pipe("a prompt", num_inference_steps=4, **tiny_call)

    assert run.logs[0].compute_share[0] == 6 / 12
    with pytest.raises(ConfigError, match="without features and patterns of its own"):
        export_model(model, scenario, tmp_path / "policy")
