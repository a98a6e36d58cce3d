import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray

from ditcache_rl.bench import Board, Case, cases_of, dealt
from ditcache_rl.config import EnvConfig, load_env
from ditcache_rl.control import PolicyNetwork
from ditcache_rl.errors import ConfigError, ShapeError
from ditcache_rl.rl import DenoiseVecEnv, Episodes, Scenario, Task, compare
from ditcache_rl.rl import estimate as estimating
from ditcache_rl.rl import fleet as module
from ditcache_rl.rl.episodes import Outcome
from ditcache_rl.rl.estimate import estimate
from ditcache_rl.rl.fleet import Fleet, _connect, fleet_of
from ditcache_rl.rl.fleet_episodes import episodes_of
from ditcache_rl.rl.floors import with_floors
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
    """Two workers of a Ray of their own, which leaves no process behind."""
    with fleet_of(config, workers=2) as made:
        assert made is not None
        session = ray._private.worker.global_worker.node.get_session_dir_path()
        assert of_session(session)
        yield made
    assert left_of(session) == []


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


class Halves(Episodes):
    """What two workers have of the rows, in this process: a call of each, one after the other."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        own = [Scenario.nominal(scenario.config) for _ in range(2)]  # a call at a time on each
        self._halves = [Episodes(one) for one in own]

    @property
    def masks(self) -> NDArray[np.bool_]:
        return np.concatenate([half.masks for half in self._halves])[self._order]

    def begin(self, tasks: Sequence[Task]) -> None:
        board, cases = self.scenario.board, [task.case for task in tasks]
        board.prepare(cases)
        self._rows = dealt([self.scenario.scheduled(task) for task in tasks], 2)
        self._order = np.argsort(np.concatenate(self._rows))
        for half, rows in zip(self._halves, self._rows, strict=True):
            half.scenario.board.keep(board.known(cases))
            half.begin([tasks[row] for row in rows])
        self._look()

    def act(self, actions: NDArray[np.int64]) -> Outcome | None:
        outcomes = []
        for half, rows in zip(self._halves, self._rows, strict=True):
            if (outcome := half.act(actions[rows])) is not None:
                outcomes.append(outcome._replace(images=outcome.images[:0]))
        self._look()
        return Outcome.joined(outcomes, self._order) if outcomes else None

    def close(self) -> None:
        for half in self._halves:
            half.close()

    def _look(self) -> None:
        seen = np.concatenate([half.observation for half in self._halves])
        self.observation = seen[self._order]


def halves(scenario: Scenario, seed: int) -> SharedVecEnv:
    """Play the rows as two workers do, in this process."""
    return DenoiseVecEnv(scenario, ROWS, draws(scenario, seed), episodes=Halves(scenario))


def on(fleet: Fleet, scenario: Scenario) -> Scenario:
    """Return a scenario of its own on workers, with nothing drawn."""
    config, steps = scenario.config, scenario.board.steps
    board = Board.of(config, scenario.board.pipe, steps=steps, crew=fleet)
    return replace(scenario, board=board, baselines={})


def apart(fleet: Fleet, scenario: Scenario, seed: int) -> SharedVecEnv:
    """Play the rows on workers."""
    there = on(fleet, scenario)
    return DenoiseVecEnv(there, ROWS, draws(there, seed), episodes=episodes_of(there))


def test_the_same_seeds_play_the_same_on_workers_as_in_one_process(
    scenario: Scenario, fleet: Fleet
) -> None:
    there = play(apart(fleet, scenario, 1), 3)
    here = play(halves(scenario, 1), 3)
    together = play(DenoiseVecEnv(scenario, ROWS, draws(scenario, 1)), 3)

    # Of as many rows at a time, to the bit; four rows at a time sum in another order, and so do
    # baselines, of which workers draw fewer at a time.
    for name in ("observations", "masks"):
        assert np.array_equal(getattr(there, name), getattr(here, name)), name
    np.testing.assert_allclose(there.rewards, here.rewards, atol=1e-3)
    assert np.array_equal(there.masks, together.masks)
    np.testing.assert_allclose(there.observations, together.observations, atol=1e-4)
    np.testing.assert_allclose(there.rewards, together.rewards, atol=1e-3)
    assert np.abs(there.rewards).max() > 0.01


def trained(
    fleet: Fleet,
    scenario: Scenario,
    folder: Path,
    on_step: Callable[[int], None] = lambda step: None,
) -> dict[str, torch.Tensor]:
    """Train on workers as a process does that knows nothing yet, and return the weights."""
    told: list[int] = []

    def hear(episodes: int, gain: float) -> None:
        told.append(episodes)
        on_step(len(told))

    folder.mkdir(exist_ok=True)
    there = on(fleet, scenario)
    model = learn(there, cases_of(there.config, "train"), folder, seed=1, on_episodes=hear)
    assert told[-1] == there.config.agent.episodes
    return dict(model.policy.state_dict())


def test_a_training_whose_workers_die_and_sleep_ends_as_it_would_have_to_the_bit(
    scenario: Scenario, fleet: Fleet, tmp_path: Path
) -> None:
    quick = Fleet(fleet._actors, patience_s=60)

    def harm(step: int) -> None:
        if step == STEPS + 2:
            ray.kill(fleet._actors[1], no_restart=False)
        if step == 2 * STEPS:
            actor = fleet._actors[0]
            pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
            os.kill(pid, signal.SIGSTOP)
            quick._patience_s = 8  # from here on: who died before had to open its pipeline

    whole = trained(fleet, scenario, tmp_path / "whole")
    harmed = trained(quick, scenario, tmp_path / "harmed", harm)

    assert all(torch.equal(value, harmed[name]) for name, value in whole.items())


def test_a_training_on_workers_that_is_resumed_equals_an_uninterrupted_one_to_the_bit(
    scenario: Scenario, fleet: Fleet, tmp_path: Path
) -> None:
    longer = replace(scenario.config, agent=replace(scenario.config.agent, episodes=32))
    scenario = replace(scenario, config=longer)

    def interrupt(step: int) -> None:
        if step == 6 * STEPS + 1:  # of eight batches; the first four are kept
            raise KeyboardInterrupt

    whole = trained(fleet, scenario, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(fleet, scenario, tmp_path / "parts", interrupt)
    resumed = trained(fleet, scenario, tmp_path / "parts")

    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_references_are_those_of_one_process_to_the_bit(scenario: Scenario, fleet: Fleet) -> None:
    cases, there = cases_of(scenario.config, "train"), on(fleet, scenario)

    assert torch.equal(there.board.references(cases), scenario.board.references(cases))


def test_workers_score_what_a_board_scores(scenario: Scenario, fleet: Fleet) -> None:
    env = apart(fleet, scenario, 4)
    env.reset()  # an episode that nobody ends
    cases = [*cases_of(scenario.config, "train"), Case("a small green disc", 5)]
    schedules = [Schedule.from_text(text) for text in ("CRCR", "C1C1", "CCCR", "CRRR")]
    here = scenario.board.score(cases, schedules)

    there = on(fleet, scenario).board.score(cases, schedules)

    np.testing.assert_allclose(there.psnr_db, here.psnr_db, atol=1e-3)
    np.testing.assert_allclose(there.ssim, here.ssim, atol=1e-5)
    # It goes on where it was, for whoever comes back to it.
    actions = np.zeros((ROWS, 2), dtype=np.int64)
    assert np.isfinite(np.asarray(env.step(actions)[0])).all()


def test_floors_and_comparison_on_workers_are_those_of_one_process(
    scenario: Scenario, fleet: Fleet
) -> None:
    cases = cases_of(scenario.config, "select")
    features = len(scenario.actions.schema()) - scenario.actions.logits
    network = PolicyNetwork(features, scenario.actions.logits)
    tasks = [Task(case, 2, 0.0) for case in cases]
    lone = (scenario, on(fleet, scenario))

    floors = [with_floors(one, [1, 2], cases, lambda share, note: None) for one in lone]
    played = [compare.play(one, network, tasks) for one in lone]

    for computes in (1, 2):
        here, there = (table[computes].floor_psnr_db for table in floors)
        assert here == pytest.approx(there, abs=1e-3)
    np.testing.assert_allclose(played[0][0], played[1][0], atol=1e-3)
    np.testing.assert_allclose(played[0][1], played[1][1], atol=1e-3)


def test_parts_go_to_whoever_is_free_and_come_back_in_order(
    scenario: Scenario, fleet: Fleet
) -> None:
    board = on(fleet, scenario).board

    found = list(board.spread(_slow_at_first, [([], number) for number in range(6)]))

    assert [number for number, _ in found] == list(range(6))
    process = [pid for _, pid in found]
    assert process.count(process[0]) == 1  # the others did not wait for it


def _slow_at_first(board: Board, cases: Sequence[Case], number: int) -> tuple[int, int]:
    time.sleep(0.0 if number else 1.0)
    return number, os.getpid()


def test_what_a_worker_raises_is_raised_here(scenario: Scenario, fleet: Fleet) -> None:
    with pytest.raises((ShapeError, ConfigError), match="expected"):
        on(fleet, scenario).board.score([Case("a disc", 1)], [Schedule.from_text("CRCR | CRCR")])


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "ray://127.0.0.1:9", "no-such-host.invalid:6379"]
)
def test_a_cluster_that_is_not_there_is_told_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a Ray cluster at .*ray start --head"):
        _connect(address)


def test_whoever_takes_calls_and_is_no_cluster_is_told_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_JOIN_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"no answer of Ray within 3 s; start one with"):
            _connect(address)


_STARTS = """
import sys
import ray
from ditcache_rl.config import load_env
from ditcache_rl.rl.fleet import fleet_of
with fleet_of(load_env(sys.argv[1]), workers=1) as fleet:
    fleet.answers([fleet.ask(0, "__ray_ready__")])
    print(ray._private.worker.global_worker.node.get_session_dir_path(), flush=True)
    sys.stdin.readline()
"""


def of_session(folder: str) -> list[str]:
    """List the processes that were started for a session of Ray."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if folder in line:
                    found.append(line)
    return found


def left_of(folder: str) -> list[str]:
    """List the processes of a session that do not end in half a minute."""
    until = time.monotonic() + 30
    while of_session(folder) and time.monotonic() < until:
        time.sleep(0.2)
    return of_session(folder)


def test_ray_leaves_no_process_behind_a_training_that_is_killed(tiny_env: Path) -> None:
    command = [sys.executable, "-c", _STARTS, str(tiny_env)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as training:
        assert training.stdout is not None
        session = training.stdout.readline().strip()
        assert of_session(session)
        training.kill()
        assert left_of(session) == []


def test_a_second_fleet_does_not_wait_for_cores_for_ever(
    config: EnvConfig, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(module, "_SAID_S", 1.0)
    monkeypatch.setattr(module, "_FREE_S", 1.0)

    # One worker would have all cores, of which the fleet that is there has all but one or all.
    with (
        pytest.raises(ConfigError, match=r"room for 1 workers .* cores in all, received [01] free"),
        fleet_of(config, workers=1),
    ):
        pass

    assert "waiting up to 1 s for room for 1 workers" in caplog.text


def test_an_estimate_times_calls_on_the_workers(
    config: EnvConfig, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This fleet holds all cores: another one would wait for them.
    monkeypatch.setattr(estimating, "fleet_of", lambda *_, **__: nullcontext(fleet))

    found = estimate(config, workers=2)

    assert (found.workers, found.rows) == (2, ROWS // 2)
    assert found.image_s > 0
    assert {stage.name for stage in found.stages} >= {"references", "search", "learn", "compare"}


def test_more_workers_than_cores_are_refused(config: EnvConfig, fleet: Fleet) -> None:
    with (
        pytest.raises(ConfigError, match="at most one worker per core"),
        fleet_of(config, workers=1000),
    ):
        pass
