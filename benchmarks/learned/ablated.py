"""Trainings of PPO that do one thing otherwise, from a plan that can be improved on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from ditcache_rl.schedules.plan import Plan
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ditcache_rl.bench import Board, Case
from ditcache_rl.config import EnvConfig, PPOConfig
from ditcache_rl.control import PolicyNetwork, best_actions
from ditcache_rl.rl import DenoiseVecEnv, Episodes, Setting, Task
from ditcache_rl.rl.episodes import Outcome
from ditcache_rl.rl.learn import make_ppo
from ditcache_rl.rl.policy import PriorPolicy, exported
from ditcache_rl.schedules import nominal_cost
from ditcache_rl.search import Space, spaced_plan
from ditcache_rl.search.space import spaced
from ditcache_rl.types import Floats, Mode

#: Steps computed, of 12.
BUDGETS = (3, 4, 5)
#: Rows that draw the same task where their mean is the baseline.
GROUP = 4
#: Small rollouts and large steps, as there are few episodes. Chosen among three with one seed.
PPO = PPOConfig(rows=8, learning_rate=5e-3, batch_size=96, n_epochs=6, target_kl=0.2, ent_coef=0.0)
#: By how much the log-prior is weakened, so that a few hundred episodes can overrule it: the
#: planned one of four patterns has a probability of 0.71.
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
"""Makes rewards of the returns of a batch and those of the plan, (rows,) each."""


def paired(returns: Floats, baseline: Floats) -> Floats:
    """Centre by what the plan earns on the same prompt, seed and target."""
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
    """Of the greedy network over the plan on select prompts, per budget."""
    curve_db: list[float]
    """Mean gain of the episodes of every rollout while it learned."""


def weak_setting(config: EnvConfig, board_of: Callable[[EnvConfig], Board]) -> Setting:
    """Set up the environment with a plan that can be improved on, and one tier.

    Args:
        config: The environment.
        board_of: Makes the board of the changed one.
    """
    cache = replace(config.cache, tiers=config.cache.tiers[:1])
    config = replace(config, cache=cache, ppo=PPO)
    board = board_of(config)
    space, plan = Space(board.steps, board.sites), Plan.empty(board.steps, board.steps)
    for budget in range(1, board.steps + 1):
        plan.patterns[budget] = spaced(space, budget, between=Mode.REUSE)
    return Setting(config, board, nominal_cost(board.steps, board.sites), plan)


def tasks_of(cases: Sequence[Case]) -> list[Task]:
    """Ask for every case at every budget."""
    return [Task(case, budget, 0.0) for case in cases for budget in BUDGETS]


def draws(cases: Sequence[Case], group: int, rng: np.random.Generator) -> Iterator[Task]:
    """Draw tasks without end, each as often as a group has rows."""
    while True:
        case = cases[int(rng.integers(len(cases)))]
        yield from [Task(case, int(rng.choice(BUDGETS)), 0.0)] * group


def train(
    setting: Setting,
    seen: Sequence[Case],
    judged: Sequence[Case],
    variant: Variant,
    episodes: int,
    *,
    seed: int,
) -> Training:
    """Train a network under a variant, and judge it.

    Args:
        setting: What is played on.
        seen: Prompts to learn on.
        judged: Prompts to judge on.
        variant: What is done otherwise.
        episodes: At least so many; the last rollout is a whole one.
        seed: Of actions, tasks and weights.
    """
    config = replace(setting.config.ppo, algorithm=variant.algorithm)
    steps, shown = setting.board.steps, variant.shown(setting.actions.schema())
    gains: list[Floats] = []

    def hear(outcome: Outcome, _: Floats) -> None:
        gains.append(gain_db(setting, outcome))

    tasks = draws(seen, variant.group, np.random.default_rng(seed))
    env = DenoiseVecEnv(setting, config.rows, tasks.__next__, on_outcome=hear)
    try:
        model = make_ppo(
            Ablated(env, shown, variant.rewards), config, episode_steps=steps, seed=seed
        )
        model.learn(episodes * steps)
    finally:
        env.close()
    assert isinstance(model.policy, PriorPolicy)
    rollouts = np.concatenate(gains).reshape(-1, model.n_steps // steps * config.rows)
    greedy = judge(setting, judged, exported(model.policy), shown)
    return Training(greedy.mean(axis=0).tolist(), rollouts.mean(axis=1).tolist())


def judge(
    setting: Setting, cases: Sequence[Case], network: PolicyNetwork, shown: NDArray[np.float32]
) -> Floats:
    """Play a network greedily, and return its gain over the plan in dB: (cases, budgets)."""
    episodes, tasks, rows = Episodes(setting), tasks_of(cases), setting.config.ppo.rows
    logits_of, gains = network.on_host(), []
    for start in range(0, len(tasks), rows):
        episodes.begin(tasks[start : start + rows])
        outcome = None
        while outcome is None:
            logits = logits_of(episodes.observation * shown)
            chosen = best_actions(logits, episodes.masks, len(setting.actions.patterns))
            outcome = episodes.act(chosen)
        gains.append(gain_db(setting, outcome))
    return np.concatenate(gains).reshape(len(cases), len(BUDGETS))


def gain_db(setting: Setting, outcome: Outcome) -> Floats:
    """Return the PSNR of every row beyond that of the plan, in dB."""
    cases, budgets = [task.case for task in outcome.tasks], [task.budget for task in outcome.tasks]
    return np.asarray(outcome.quality.psnr_db - setting.static(cases, budgets).psnr_db)


def forecasts_gain(setting: Setting, cases: Sequence[Case]) -> list[float]:
    """Return what forecasts in place of reuse would gain at the same computed steps, in dB."""
    board, tasks = setting.board, tasks_of(cases)
    forecasts = replace(setting, plan=spaced_plan(board.steps, board.sites), baselines={})
    better, known = (
        one.static([task.case for task in tasks], [task.budget for task in tasks]).psnr_db
        for one in (forecasts, setting)
    )
    gains = (better - known).reshape(len(cases), len(BUDGETS))
    return [float(gain) for gain in gains.mean(axis=0)]
