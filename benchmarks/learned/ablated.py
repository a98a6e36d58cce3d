"""Trainings of PPO that do one thing otherwise, from a schedule that can be improved on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ditcache_rl.bench import Board, Case
from ditcache_rl.config import AgentConfig, EnvConfig
from ditcache_rl.control import PolicyNetwork, best_actions
from ditcache_rl.rl import DenoiseVecEnv, Episodes, Scenario, Task
from ditcache_rl.rl.agents import make_agent
from ditcache_rl.rl.episodes import Outcome
from ditcache_rl.rl.policy import exported
from ditcache_rl.schedules import ScheduleTable, nominal_cost, spaced, spaced_table
from ditcache_rl.types import Floats, Mode

#: Steps computed, of 12.
COMPUTES = (3, 4, 5)
#: Rows that draw the same task where their mean is the baseline.
GROUP = 4
#: Small rollouts and large steps, as there are few episodes. Chosen among three with one seed.
AGENT = AgentConfig(
    rows=8,
    settings={
        "learning_rate": 5e-3,
        "batch_size": 96,
        "n_epochs": 6,
        "target_kl": 0.2,
        "ent_coef": 0.0,
    },
)
#: By how much the log-prior is weakened, so that a few hundred episodes can overrule it: the
#: scheduled one of four patterns has a probability of 0.71.
WEAKER = 0.5
#: Beginnings of the names of what a family of features comprises; together they are all.
FAMILIES = {
    "target": ("budget", "spent", "latency", "device_free"),
    "clock": ("step_share", "inverse_steps", "sigma"),
    "drifts": ("drift",),
    "site": ("site",),
    "prior": ("prior",),
}
Rewards = Callable[[Floats, Floats], Floats]
"""Makes rewards of the returns of a batch and those of the schedules, (rows,) each."""


def paired(returns: Floats, baseline: Floats) -> Floats:
    """Centre by what the schedule earns on the same prompt, seed and target."""
    return returns - baseline


def alone(returns: Floats, _: Floats) -> Floats:
    """Leave it to the critic to centre."""
    return returns


def grouped(returns: Floats, _: Floats) -> Floats:
    """Centre by the mean of the rows that draw the same task, which lie one after the other."""
    groups = returns.reshape(-1, GROUP)
    centred: Floats = groups - groups.mean(axis=1, keepdims=True)
    return centred.ravel()


class Variant(NamedTuple):
    """What a training does otherwise."""

    algorithm: str = "maskable"
    rewards: Rewards = paired
    group: int = 1
    """Rows that draw the same task."""
    hidden: str | None = None
    """Family of features that reads zero."""

    def shown(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Return the factors of an observation: (features,)."""
        hidden = FAMILIES[self.hidden] if self.hidden else ()
        factors = [
            0.0 if name.startswith(hidden) else WEAKER if name.startswith("prior") else 1.0
            for name in names
        ]
        return np.array(factors, dtype=np.float32)


VARIANTS = {
    "default": Variant(),
    "plain": Variant(algorithm="plain"),
    "no_baseline": Variant(rewards=alone),
    "group_mean": Variant(rewards=grouped, group=GROUP),
    **{f"no_{family}": Variant(hidden=family) for family in FAMILIES},
}


class Ablated(VecEnvWrapper):
    """Shows and rewards what a variant does."""

    def __init__(self, env: DenoiseVecEnv, shown: NDArray[np.float32], rewards: Rewards) -> None:
        super().__init__(env)
        self._shown, self._rewards = shown, rewards

    def reset(self) -> VecEnvObs:
        """Begin a batch."""
        return self._seen(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Play one denoising step; all rows end together."""
        obs, rewards, dones, infos = self.venv.step_wait()
        if dones.all():
            baseline = np.array([info["baseline"] for info in infos])
            rewards = self._rewards(rewards + baseline, baseline).astype(np.float32)
        return self._seen(obs), rewards, dones, infos

    def _seen(self, obs: VecEnvObs) -> NDArray[np.float32]:
        assert isinstance(obs, np.ndarray)
        return obs * self._shown


class Training(NamedTuple):
    """What came of one variant and seed."""

    gain_db: list[float]
    """Of the greedy network over the schedule on select prompts, by computes."""
    curve_db: list[float]
    """Mean gain of the episodes of every rollout while it learned."""


def weak_scenario(config: EnvConfig, pipe: Any) -> Scenario:
    """Set up the environment with schedules that can be improved on, and one tier."""
    cache = replace(config.cache, tiers=config.cache.tiers[:1])
    config = replace(config, cache=cache, agent=AGENT)
    board = Board.of(config, pipe, steps=config.steps[0])
    steps, sites = board.steps, board.sites
    weak = [
        spaced(steps, sites, computes, between=Mode.REUSE)
        for computes in range(sites, steps * sites + 1)
    ]
    table = ScheduleTable.of(board.sigmas(), weak)
    return Scenario(config, board, nominal_cost(steps, sites), table)


def tasks_of(cases: Sequence[Case]) -> list[Task]:
    """Ask for every case with every number of computes."""
    return [Task(case, computes, 0.0) for case in cases for computes in COMPUTES]


def draws(cases: Sequence[Case], group: int, rng: np.random.Generator) -> Iterator[Task]:
    """Draw tasks without end, each as often as a group has rows."""
    while True:
        case = cases[int(rng.integers(len(cases)))]
        yield from [Task(case, int(rng.choice(COMPUTES)), 0.0)] * group


def train(
    scenario: Scenario,
    seen: Sequence[Case],
    judged: Sequence[Case],
    variant: Variant,
    episodes: int,
    *,
    seed: int,
) -> Training:
    """Train a network under a variant, and judge it.

    Args:
        scenario: What is played on.
        seen: Prompts to learn on.
        judged: Prompts to judge on.
        variant: What is done otherwise.
        episodes: At least so many; the last rollout is a whole one.
        seed: Of actions, tasks and weights.
    """
    config = replace(scenario.config.agent, algorithm=variant.algorithm)
    steps, shown = scenario.board.steps, variant.shown(scenario.actions.schema())
    gains: list[Floats] = []

    def hear(outcome: Outcome, _: Floats) -> None:
        gains.append(gain_db(scenario, outcome))

    tasks = draws(seen, variant.group, np.random.default_rng(seed))
    env = DenoiseVecEnv(scenario, config.rows, tasks.__next__, on_outcome=hear)
    try:
        model = make_agent(
            Ablated(env, shown, variant.rewards), config, episode_steps=steps, seed=seed
        )
        model.learn(episodes * steps)
    finally:
        env.close()
    assert isinstance(model, OnPolicyAlgorithm)
    rollouts = np.concatenate(gains).reshape(-1, model.n_steps // steps * config.rows)
    greedy = judge(scenario, judged, exported(model), shown)
    return Training(greedy.mean(axis=0).tolist(), rollouts.mean(axis=1).tolist())


def judge(
    scenario: Scenario, cases: Sequence[Case], network: PolicyNetwork, shown: NDArray[np.float32]
) -> Floats:
    """Play a network greedily, and return its gain over the schedules in dB: (cases, computes)."""
    episodes, tasks, rows = Episodes(scenario), tasks_of(cases), scenario.config.agent.rows
    logits_of, gains = network.on_host(), []
    for start in range(0, len(tasks), rows):
        episodes.begin(tasks[start : start + rows])
        outcome = None
        while outcome is None:
            logits = logits_of(episodes.observation * shown)
            chosen = best_actions(logits, episodes.masks, len(scenario.actions.patterns))
            outcome = episodes.act(chosen)
        gains.append(gain_db(scenario, outcome))
    return np.concatenate(gains).reshape(len(cases), len(COMPUTES))


def gain_db(scenario: Scenario, outcome: Outcome) -> Floats:
    """Return the PSNR of every row beyond that of its schedule, in dB."""
    return np.asarray(outcome.quality.psnr_db - _scheduled_db(scenario, outcome.tasks))


def forecasts_gain(scenario: Scenario, cases: Sequence[Case]) -> list[float]:
    """Return what forecasts in place of reuse would gain at the same computed steps, in dB."""
    board, tasks = scenario.board, tasks_of(cases)
    forecasts = replace(scenario, table=spaced_table(board.sigmas(), board.sites), baselines={})
    better, known = (_scheduled_db(one, tasks) for one in (forecasts, scenario))
    gains = (better - known).reshape(len(cases), len(COMPUTES))
    return [float(gain) for gain in gains.mean(axis=0)]


def _scheduled_db(scenario: Scenario, tasks: Sequence[Task]) -> Floats:
    """Return the PSNR of tasks under their schedules: (tasks,)."""
    cases, schedules = zip(*((task.case, scenario.scheduled(task)) for task in tasks), strict=True)
    return scenario.static(cases, schedules).psnr_db
