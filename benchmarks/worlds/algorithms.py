"""Which algorithm learns to keep deadlines: all on as many images, from the same prior."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from rich.progress import track
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.harness import Lines
from benchmarks.worlds.seeds import EVERY, Opponents, Trainings
from ditcache_rl.config import AgentConfig
from ditcache_rl.rl.agents import make_agent
from ditcache_rl.rl.deadline_env import DeadlineVecEnv
from ditcache_rl.rl.pace import foreseen
from ditcache_rl.rl.policy import exported
from ditcache_rl.world import Agent, Decide, Forecast, Moment, Pacer, Senses
from ditcache_rl.world.agent import ACTIONS, AGENT_NAMES, allowed
from ditcache_rl.world.tuning import SPARE

#: Images that are played at a time.
_BATCH = 1020
#: Less than an agent is trained on that is shipped: where algorithms differ it is seen sooner.
FULL, QUICK = Trainings(1, 30 * _BATCH, 12_288), Trainings(1, 3 * _BATCH, 1536)
#: As the agent of a policy is trained; no update is cut short.
_PPO = {"n_epochs": 4, "gae_lambda": 0.95, "ent_coef": 0.002, "target_kl": 1.0}


def _settings(steps: int) -> Mapping[str, dict[str, Any]]:
    """Return what each algorithm is set to, by the name of `[agent] algorithm`.

    All but A2C take as many gradient steps; it learns from every part of an image once.
    """
    ppo = _PPO | {"n_steps": steps, "batch_size": 2 * _BATCH}
    part = max(1, steps // 4)
    return {
        "maskable": ppo,
        "plain": ppo,
        "recurrent": ppo,
        "a2c": {"n_steps": part, "gae_lambda": 0.95, "ent_coef": 0.002},
        "dqn": {
            "train_freq": part,
            "gradient_steps": 14,
            "batch_size": 2 * _BATCH,
            "buffer_size": 200 * _BATCH,
        },
    }


class TieredSenses(Senses):
    """Reads as the agents of environments do, which choose a tier too; there is but one."""

    def read(self, moment: Moment) -> NDArray[np.float32]:
        """Return what a network reads, with the log-prior of the tier last."""
        seen = super().read(moment)
        return np.concatenate([seen, np.zeros((len(seen), 1), dtype=np.float32)], axis=1)


class TieredDeadlineVecEnv(DeadlineVecEnv):
    """Has the pairs of pattern and tier that `make_agent` takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        features = len(AGENT_NAMES) + ACTIONS + 1
        self.observation_space = spaces.Box(-np.inf, np.inf, (features,), np.float32)
        self.action_space = spaces.MultiDiscrete([ACTIONS, 1])

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of all rows: (rows, 2)."""
        super().step_async(actions[:, :1])

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which are allowed: leaving a step out, computing it, and the tier."""
        masks = super().action_masks()
        return np.concatenate([masks, np.ones((len(masks), 1), dtype=bool)], axis=1)


class Remembering:
    """Decide with a recurrent policy, whose memory begins anew with every image."""

    def __init__(self, model: BaseAlgorithm, senses: Senses) -> None:
        self._model, self._senses = model, senses
        self._state: Any = None

    def __call__(self, moment: Moment) -> NDArray[np.bool_]:
        """Tell which rows compute: (rows,)."""
        begins = np.full(len(moment.left), moment.step == 0)
        actions, self._state = self._model.predict(
            self._senses.read(moment),
            None if moment.step == 0 else self._state,
            begins,
            deterministic=True,
        )
        skip, compute = allowed(moment).T
        return np.asarray(compute & (~skip | (actions[:, 0] == 1)))


def algorithms(
    pacer: Pacer, sizes: Trainings, names: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[dict[str, float], Lines]:
    """Train by each algorithm, and judge on all loads mixed; all read the same forecast.

    Returns:
        Figures and lines of a table.
    """
    world, steps = pacer.world, len(pacer.sigmas) - 1
    opponents = Opponents(pacer, sizes.test)
    network = foreseen(world, EVERY, pacer.placement, pacer.prior, seed=seed)
    senses = TieredSenses(Forecast(network.on_host()), pacer.prior)
    settings = _settings(steps)
    figures: dict[str, float] = {}
    lines: Lines = []
    for name in track(list(settings) if names is None else names, "algorithms"):
        rng = np.random.default_rng(seed)
        env = TieredDeadlineVecEnv(
            lambda rng=rng: world.draw(EVERY, _BATCH, rng),
            senses,
            loads=len(EVERY),
            promised=pacer.pacing.promised_share + SPARE,
        )
        config = AgentConfig(algorithm=name, rows=_BATCH, settings=settings[name])
        started = time.perf_counter()
        model = make_agent(env, config, episode_steps=steps, seed=seed)
        model.learn(sizes.learn * steps)
        seconds = time.perf_counter() - started
        decide: Decide
        if name == "recurrent":
            decide = Remembering(model, senses)
        else:
            decide = Agent(exported(model).on_host(), senses)
        line, over = opponents.judged(name, seed, decide)
        lines.append(line | {"images": sizes.learn, "train_s": round(seconds, 1)})
        figures |= {f"{name}_over_{one}_db": float(db.mean()) for one, db in over.items()}
        figures[f"{name}_kept_share"] = line["kept_share"]
    return figures, lines
