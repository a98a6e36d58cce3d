"""Agents that place entries: where they begin, how they learn, and what they and rules reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from benchmarks.traces.course import Course, PlacementEnv
from benchmarks.traces.placers import Choice, placed, tally_of
from benchmarks.traces.requests import Past, StoreReplay, Tally
from ditcache_rl.types import Modes

DEVICE_SHARES = (0.25, 0.5)
#: Requests that are played at the same time.
ROWS = 32
#: Probability of the cache's own rule at the start, where that is the prior.
TRUST = 0.6


class Start(NamedTuple):
    """Where an agent begins."""

    trusting: bool
    """With the cache's own rule, or with weights at random."""
    ent_coef: float
    """By which it is paid for trying; without, an agent from nothing ends as the rule, too."""


STARTS = {"agent": Start(trusting=True, ent_coef=0.0), "agent_cold": Start(False, ent_coef=0.02)}


def learn(course: Course, visits: int, *, start: Start, seed: int) -> PPO:
    """Train an agent.

    Args:
        course: Requests to learn on.
        visits: That it plays.
        start: Where it begins.
        seed: Of requests, actions and weights.
    """
    env = DummyVecEnv([lambda: PlacementEnv(course)] * ROWS)
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=lambda left: 2e-3 * max(left, 0.05),
        n_steps=256,
        batch_size=1024,
        n_epochs=4,
        # What a visit decides is seen at the next one, 40 visits later, and that of others before.
        gamma=0.99,
        gae_lambda=1.0,
        ent_coef=start.ent_coef,
        policy_kwargs={"net_arch": [32, 32]},
        seed=seed,
        device="cpu",
    )
    if start.trusting:
        trust(model)
    try:
        return model.learn(visits)
    finally:
        env.close()


def trust(model: PPO) -> None:
    """Let an agent begin with the cache's own rule, whatever it sees."""
    others = (1 - TRUST) / (len(Choice) - 1)
    prior = [TRUST if choice is Choice.RULE else others for choice in Choice]
    head = model.policy.action_net
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(prior).log())


def by_rule(name: str, schedules: Sequence[Modes], past: Past) -> list[Tally]:
    """Play requests by a rule: all their reads together, for each size of the device."""
    return [
        total([tally_of(name, modes, share, past) for modes in schedules])
        for share in DEVICE_SHARES
    ]


def by_agent(agent: PPO, schedules: Sequence[Modes], past: Past) -> list[Tally]:
    """Let an agent play requests, greedily and all at the same time."""
    lots = [[StoreReplay(modes, share, past) for modes in schedules] for share in DEVICE_SHARES]
    replays = [replay for lot in lots for replay in lot]
    while not replays[0].done:
        actions, _ = agent.predict(np.stack([r.facts() for r in replays]), deterministic=True)
        for replay, action in zip(replays, actions.tolist(), strict=True):
            replay.play(placed(replay, Choice(action)))
    return [total([replay.tally for replay in lot]) for lot in lots]


def total(tallies: Sequence[Tally]) -> Tally:
    """Add up."""
    return Tally(*(sum(column) for column in zip(*tallies, strict=True)))
