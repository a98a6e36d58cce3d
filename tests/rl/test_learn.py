import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl.bench import cases_of
from ditcache_rl.config import ALGORITHMS
from ditcache_rl.rl import DenoiseVecEnv, Scenario, Task
from ditcache_rl.rl.agents import make_agent
from ditcache_rl.rl.curves import merge_events, open_curves
from ditcache_rl.rl.episodes import Outcome
from ditcache_rl.rl.learn import learn
from ditcache_rl.rl.policy import exported
from tests.kit.curves import events_of
from tests.kit.environment import tiny_config, tiny_scenario

EPISODES = 32  # two rollouts of four batches of four rows
SMALL = {"batch_size": 32, "n_epochs": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "a2c": {},
    "dqn": {"train_freq": 16, "batch_size": 32, "gradient_steps": 8},
}

# TensorBoard's own protobuf files, read when its writer is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


@pytest.fixture
def scenario(tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path) -> Scenario:
    config = tiny_config(tmp_path / "env", tiny_call, episodes=EPISODES)
    return tiny_scenario(config, tiny_pipe)


def fresh(scenario: Scenario) -> Scenario:
    """Return what another process would make: nothing is known, no reference drawn."""
    return tiny_scenario(scenario.config, scenario.board.pipe)


def learned(
    scenario: Scenario,
    folder: Path,
    *,
    seed: int = 1,
    hear: Callable[[int], None] | None = None,
    callbacks: Sequence[BaseCallback] = (),
) -> tuple[BaseAlgorithm, list[int]]:
    """Train, and return the model and the numbers of episodes that were told on the way."""
    folder.mkdir(exist_ok=True)
    told = []

    def on_episodes(episodes: int, gain: float) -> None:
        assert np.isfinite(gain)
        told.append(episodes)
        if hear is not None:
            hear(episodes)

    cases = cases_of(scenario.config, "train")
    model = learn(scenario, cases, folder, seed=seed, on_episodes=on_episodes, callbacks=callbacks)
    return model, told


def same(a: BaseAlgorithm, b: BaseAlgorithm) -> bool:
    pairs = zip(a.policy.state_dict().values(), b.policy.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_first_episodes_are_those_of_the_static_schedules(scenario: Scenario) -> None:
    rng = np.random.default_rng(0)
    cases = cases_of(scenario.config, "train")
    env = DenoiseVecEnv(scenario, 8, lambda: Task.drawn(scenario, cases, rng))
    model = make_agent(env, scenario.config.agent, episode_steps=4, seed=0)
    assert isinstance(model, MaskablePPO)

    obs: Any = env.reset()
    rewards: NDArray[np.float32] = np.zeros(8, dtype=np.float32)
    for _ in range(4):
        actions, _ = model.predict(obs, deterministic=True, action_masks=env.action_masks())
        obs, rewards, _, infos = env.step(actions)
    env.close()

    np.testing.assert_allclose(rewards, 0, atol=1e-3)
    assert {info["compute_share"] for info in infos} >= {0.25, 0.5, 0.75}


def test_the_same_seed_learns_the_same_network(scenario: Scenario, tmp_path: Path) -> None:
    first, told = learned(scenario, tmp_path / "a")
    scenario.baselines.clear()
    again, _ = learned(scenario, tmp_path / "b")
    other, _ = learned(scenario, tmp_path / "c", seed=2)

    assert told[-1] == EPISODES
    assert same(first, again)
    assert not same(first, other)
    assert exported(first).head.weight.abs().max() > 0


def under(scenario: Scenario, algorithm: str) -> Scenario:
    config = scenario.config
    agent = replace(config.agent, algorithm=algorithm, settings=SETTINGS.get(algorithm, SMALL))
    return replace(scenario, config=replace(config, agent=agent))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns_and_keeps_budgets(scenario: Scenario, algorithm: str) -> None:
    scenario = under(scenario, algorithm)
    cases = cases_of(scenario.config, "train")
    tasks = itertools.cycle([Task(case, count, 0.0) for case in cases for count in (1, 2, 3)])
    spent: list[tuple[int, float]] = []

    def hear(outcome: Outcome, _: object) -> None:
        computes = 4 * outcome.compute_share
        spent.extend(zip((task.computes for task in outcome.tasks), computes, strict=True))

    env = DenoiseVecEnv(scenario, 4, tasks.__next__, on_outcome=hear)
    model = make_agent(env, scenario.config.agent, episode_steps=4, seed=0)
    before = [value.clone() for value in model.policy.state_dict().values()]
    model.learn(EPISODES * 4)
    env.close()

    assert len(spent) == EPISODES
    assert all(asked == computes for asked, computes in spent)
    after = model.policy.state_dict().values()
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_resumed_training_learns_the_network_of_an_uninterrupted_one_to_the_bit(
    scenario: Scenario, tmp_path: Path, algorithm: str
) -> None:
    scenario = under(scenario, algorithm)

    def interrupt(episodes: int) -> None:
        if episodes > 16:
            raise KeyboardInterrupt

    whole, _ = learned(scenario, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        learned(fresh(scenario), tmp_path / "parts", hear=interrupt)
    np.random.seed(5)  # noqa: NPY002  # what a process begins with is no part of it
    torch.manual_seed(5)
    resumed, told = learned(fresh(scenario), tmp_path / "parts")

    assert told[0] == 16  # the first rollout was kept
    assert told[-1] == EPISODES
    assert same(whole, resumed)
    saved = (tmp_path / "parts" / "agent.zip").stat().st_mtime_ns
    finished, nothing = learned(fresh(scenario), tmp_path / "parts")
    assert nothing == []
    assert same(whole, finished)
    assert (tmp_path / "parts" / "agent.zip").stat().st_mtime_ns == saved


def steps_of(events: Any, name: str) -> list[int]:
    return [event.step for event in events.Scalars(name)]


TARGETS = {"0.25", "0.50", "0.75", "tradeoff"}
LOSSES = {
    "train/loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/policy_gradient_loss",
    "train/approx_kl",
    "train/clip_fraction",
    "train/learning_rate",
}


def test_curves_losses_images_and_hyperparameters_are_written(
    scenario: Scenario, tmp_path: Path
) -> None:
    learned(scenario, tmp_path / "run")

    events = events_of(tmp_path / "run")
    tags = events.Tags()
    assert LOSSES | {"train/reward", "train/paired_gain", "paired_gain/0.25"} <= set(
        tags["scalars"]
    )
    assert {name.split("/")[1] for name in tags["scalars"] if name.startswith("paired_gain/")} == (
        TARGETS
    )
    # Of the last update too, which no rollout follows.
    assert steps_of(events, "train/loss") == [EPISODES * 4 // 2, EPISODES * 4]
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for name in (b"algorithm", b"maskable", b"learning_rate", b"seed", b"n_epochs"):
        assert name in start


def test_every_target_has_an_image_pair_a_heat_map_of_decisions_and_a_histogram_of_gains(
    scenario: Scenario, tmp_path: Path
) -> None:
    learned(scenario, tmp_path / "run")

    events = events_of(tmp_path / "run")
    tags = events.Tags()
    assert set(tags["images"]) == {
        f"{kind}/{target}" for kind in ("pairs", "decisions") for target in TARGETS
    }
    assert set(tags["histograms"]) == {f"gains/{target}" for target in TARGETS}
    pair, _ = events.Images("pairs/0.50")
    height = width = 64  # of an image of the tiny pipeline
    assert (pair.height, pair.width) == (height, 3 * width)
    drawn = PIL.Image.open(io.BytesIO(pair.encoded_image_string))
    reference, image, error = np.array(drawn).reshape(height, 3, width, 3).swapaxes(0, 1) / 255.0
    # Colours have 256 values, and errors are drawn four times as strong.
    np.testing.assert_allclose(error, (4 * abs(image - reference)).clip(0, 1), atol=4.5 / 255)
    heat, _ = events.Images("decisions/0.25")
    cells = np.array(PIL.Image.open(io.BytesIO(heat.encoded_image_string)))[6::12, 6::12]
    assert cells.shape == (1, 4, 3)
    # The first step computes in every episode, and of four steps no further one.
    np.testing.assert_allclose(cells[0, 0], [209, 35, 79], atol=1)
    np.testing.assert_allclose(cells[0, 1:], [[237, 237, 239]] * 3, atol=1)
    for target in TARGETS:
        shown = events.Histograms(f"gains/{target}")[-1].histogram_value
        mean = events.Scalars(f"paired_gain/{target}")[-1].value
        np.testing.assert_allclose(shown.sum / shown.num, mean, rtol=1e-5)


def test_a_run_has_one_file_of_events_also_after_resuming(
    scenario: Scenario, tmp_path: Path
) -> None:
    def interrupt(episodes: int) -> None:
        if episodes > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learned(scenario, tmp_path, hear=interrupt)
    before = steps_of(events_of(tmp_path), "train/paired_gain")
    learned(scenario, tmp_path)

    events = events_of(tmp_path)
    assert before == [64]
    assert steps_of(events, "train/paired_gain") == [64, 128]
    assert len(events.Tags()["images"]) == 2 * len(TARGETS)


def test_what_was_written_after_the_checkpoint_gives_way_and_broken_ends_too(
    scenario: Scenario, tmp_path: Path
) -> None:
    first = open_curves(tmp_path, 0)
    for step in (64, 128, 192):
        first.record("x", step)
        first.dump(step)
    first.close()
    (file,) = tmp_path.glob("events*")
    file.write_bytes(file.read_bytes()[:-5])  # killed in the middle of a record

    again = open_curves(tmp_path, 64)  # the checkpoint is that old
    again.record("x", 1)
    again.dump(100)
    again.close()
    merge_events(tmp_path)

    events = events_of(tmp_path)
    assert steps_of(events, "x") == [64, 100]


def test_callbacks_of_ones_own_are_called_beside_ours(scenario: Scenario, tmp_path: Path) -> None:
    class Count(BaseCallback):
        steps = 0

        def _on_step(self) -> bool:
            self.steps += 1
            return self.steps < 5

    count = Count()

    _, told = learned(scenario, tmp_path, callbacks=[count])

    assert count.steps == 5  # and training stops where it says so
    assert told[-1] == 4
