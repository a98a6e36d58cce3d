import gc
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray

from ditcache_rl.bench import Case, cases_of
from ditcache_rl.config import EnvConfig, load_env
from ditcache_rl.errors import ConfigError, ShapeError, StateError
from ditcache_rl.rl import DenoiseVecEnv, Scenario, Task
from ditcache_rl.rl.fleet import Fleet, _connect, fleet_of, shared
from ditcache_rl.rl.fleet_vec_env import FleetVecEnv
from ditcache_rl.rl.learn import learn
from ditcache_rl.rl.shared_vec_env import SharedVecEnv
from ditcache_rl.schedules import Schedule

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard"),
]
ROWS, STEPS = 4, 4


@pytest.fixture(scope="module")
def config(tiny_env: Path) -> EnvConfig:
    return load_env(tiny_env)


@pytest.fixture(scope="module")
def fleet(config: EnvConfig) -> Iterator[Fleet]:
    """Two workers of a Ray of their own."""
    with fleet_of(config, workers=2) as made:
        assert made is not None
        yield made


@pytest.fixture
def scenario(config: EnvConfig) -> Scenario:
    return Scenario.nominal(config)


class Played(NamedTuple):
    """What came of the steps of a vectorised environment."""

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    rewards: NDArray[np.float32]


def draws(scenario: Scenario, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    cases = cases_of(scenario.config, "train")
    return lambda: Task.drawn(scenario, cases, rng)


def play(env: SharedVecEnv, episodes: int) -> Played:
    """Play at random, as masks allow it."""
    rng = np.random.default_rng(3)
    observations, allowed, earned = [], [], []
    observation: Any = env.reset()
    for step in range(episodes * STEPS):
        masks = env.action_masks()
        observations.append(observation)
        allowed.append(masks.copy())
        noise = rng.random(masks.shape) * masks
        patterns = masks.shape[1] - 2
        actions = np.stack(
            [noise[:, :patterns].argmax(axis=1), noise[:, patterns:].argmax(axis=1)], axis=1
        )
        observation, rewards, dones, _ = env.step(actions)
        earned.append(rewards)
        assert dones.all() == dones.any() == (step % STEPS == STEPS - 1)
    env.close()
    return Played(np.array(observations), np.array(allowed), np.array(earned))


def halves(scenario: Scenario, seed: int) -> SharedVecEnv:
    """Play both halves of the rows in this process, one after the other."""
    draw = draws(scenario, seed)
    waiting: list[list[Task]] = [[], []]

    def of(half: int) -> Task:
        if not waiting[half]:
            drawn = [draw() for _ in range(ROWS)]
            waiting[0] += drawn[: ROWS // 2]
            waiting[1] += drawn[ROWS // 2 :]
        return waiting[half].pop(0)

    own = [Scenario.nominal(scenario.config) for _ in range(2)]  # a call at a time on each
    parts = [DenoiseVecEnv(own[half], ROWS // 2, partial(of, half)) for half in (0, 1)]

    class Both(DenoiseVecEnv):
        def reset(self) -> Any:
            observations: list[Any] = [one.reset() for one in parts]
            return np.concatenate(observations)

        def step(self, actions: Any) -> Any:
            pairs = zip(parts, np.split(actions, 2), strict=True)
            outs = [one.step(part) for one, part in pairs]
            joined = [np.concatenate([out[index] for out in outs]) for index in range(3)]
            return (*joined, [info for out in outs for info in out[3]])

        def action_masks(self) -> NDArray[np.bool_]:
            return np.concatenate([one.action_masks() for one in parts])

        def close(self) -> None:
            for one in parts:
                one.close()

    return Both(scenario, ROWS, draw)


def test_the_same_seeds_play_the_same_on_workers_as_in_one_process(
    scenario: Scenario, fleet: Fleet
) -> None:
    apart = play(FleetVecEnv(scenario, ROWS, draws(scenario, 1), fleet=fleet), 3)
    here = play(halves(scenario, 1), 3)
    together = play(DenoiseVecEnv(scenario, ROWS, draws(scenario, 1)), 3)

    # Of as many rows at a time, to the bit; four rows at a time sum in another order, and so may
    # references and baselines, which are drawn together with those that were missing before.
    for name in ("observations", "masks"):
        assert np.array_equal(getattr(apart, name), getattr(here, name)), name
    np.testing.assert_allclose(apart.rewards, here.rewards, atol=1e-3)
    assert np.array_equal(apart.masks, together.masks)
    np.testing.assert_allclose(apart.observations, together.observations, atol=1e-4)
    np.testing.assert_allclose(apart.rewards, together.rewards, atol=1e-3)
    assert np.abs(apart.rewards).max() > 0.01


def test_a_fleet_plays_for_one_environment_at_a_time(scenario: Scenario, fleet: Fleet) -> None:
    def make() -> FleetVecEnv:
        return FleetVecEnv(scenario, ROWS, draws(scenario, 1), fleet=fleet)

    first = make()
    first.reset()
    with pytest.raises(StateError, match=r"whose workers play the rows of another environment"):
        make()
    first.close()
    with pytest.raises(StateError, match="call reset first"):
        first.step(np.zeros((ROWS, 2), dtype=np.int64))
    second = make()
    with pytest.raises(StateError, match="close that one first"):
        first.reset()
    second.close()
    first.reset()
    del first, second
    gc.collect()
    make().close()


def test_a_training_whose_workers_die_and_sleep_ends_as_it_would_have(
    scenario: Scenario, fleet: Fleet, tmp_path: Path
) -> None:
    quick, found = Fleet(fleet._actors, patience_s=8), []

    def harm(step: int) -> None:
        if step == STEPS + 2:
            ray.kill(fleet._actors[1], no_restart=False)
        if step == 2 * STEPS:
            actor = fleet._actors[0]
            pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
            os.kill(pid, signal.SIGSTOP)

    for name, crew in (("whole", fleet), ("harmed", quick)):
        told: list[int] = []

        def hear(episodes: int, gain: float, told: list[int] = told, name: str = name) -> None:
            told.append(episodes)
            if name == "harmed":
                harm(len(told))

        (tmp_path / name).mkdir()
        cases = cases_of(scenario.config, "train")
        model = learn(scenario, cases, tmp_path / name, seed=1, on_episodes=hear, fleet=crew)
        assert told[-1] == scenario.config.agent.episodes
        found.append(model.policy.state_dict())

    # Not to the bit: who comes instead draws references and baselines in other company.
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-3, rtol=0, msg=name)


def test_workers_score_what_a_board_scores(scenario: Scenario, fleet: Fleet) -> None:
    env = FleetVecEnv(scenario, ROWS, draws(scenario, 4), fleet=fleet)
    env.reset()  # an episode that nobody ends
    cases = [*cases_of(scenario.config, "train"), Case("a small green disc", 5)]
    schedules = [Schedule.from_text(text) for text in ("CRCR", "C1C1", "CCCR", "CRRR")]
    here = scenario.board.score(cases, schedules)

    apart = shared(scenario.board, fleet).score(cases, schedules)

    np.testing.assert_allclose(apart.psnr_db, here.psnr_db, atol=1e-3)
    np.testing.assert_allclose(apart.ssim, here.ssim, atol=1e-5)
    # It goes on where it was, for whoever comes back to it.
    actions = np.zeros((ROWS, 2), dtype=np.int64)
    assert np.isfinite(np.asarray(env.step(actions)[0])).all()
    env.close()


def test_what_a_worker_raises_is_raised_here(scenario: Scenario, fleet: Fleet) -> None:
    with pytest.raises((ShapeError, ConfigError), match="expected"):
        fleet.score(STEPS, [Case("a disc", 1)], [Schedule.from_text("CRCR | CRCR")])


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "ray://127.0.0.1:9", "no-such-host.invalid:6379"]
)
def test_a_cluster_that_is_not_there_is_told_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a Ray cluster at .*ray start --head"):
        _connect(address)


def test_more_workers_than_cores_are_refused(config: EnvConfig, fleet: Fleet) -> None:
    with (
        pytest.raises(ConfigError, match="at most one worker per core"),
        fleet_of(config, workers=1000),
    ):
        pass
