"""The environments, and learning in them: the only part that knows gymnasium and SB3.

Names are looked up when they are asked for: who makes one environment waits for no algorithm.

Raises:
    ConfigError: On import, if what learning needs is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ditcache_rl.machine import LEARNING, require

require("train", *LEARNING)

if TYPE_CHECKING:
    from ditcache_rl.control.observation import OwnFeatures
    from ditcache_rl.rl.deadline_env import DeadlineEnv, DeadlineVecEnv
    from ditcache_rl.rl.env import DenoiseEnv
    from ditcache_rl.rl.episodes import Episodes
    from ditcache_rl.rl.export import export_model, export_pacer
    from ditcache_rl.rl.hooks import Hooks
    from ditcache_rl.rl.policy import MaskablePriorPolicy, PlainPriorPolicy, PriorQPolicy
    from ditcache_rl.rl.register import register_envs
    from ditcache_rl.rl.reward import RewardTerms
    from ditcache_rl.rl.rollout import Finished, Rollout
    from ditcache_rl.rl.scenario import Scenario, Task
    from ditcache_rl.rl.serve_env import ServeEnv, ServeVecEnv
    from ditcache_rl.rl.serving import Service
    from ditcache_rl.rl.vec_env import DenoiseVecEnv
    from ditcache_rl.rl.vector import DenoiseVectorEnv
else:
    _HOME = {
        "DeadlineEnv": "rl.deadline_env",
        "DeadlineVecEnv": "rl.deadline_env",
        "DenoiseEnv": "rl.env",
        "DenoiseVecEnv": "rl.vec_env",
        "DenoiseVectorEnv": "rl.vector",
        "Episodes": "rl.episodes",
        "Finished": "rl.rollout",
        "Hooks": "rl.hooks",
        "MaskablePriorPolicy": "rl.policy",
        "OwnFeatures": "control.observation",
        "PlainPriorPolicy": "rl.policy",
        "PriorQPolicy": "rl.policy",
        "RewardTerms": "rl.reward",
        "Rollout": "rl.rollout",
        "Scenario": "rl.scenario",
        "ServeEnv": "rl.serve_env",
        "ServeVecEnv": "rl.serve_env",
        "Service": "rl.serving",
        "Task": "rl.scenario",
        "export_model": "rl.export",
        "export_pacer": "rl.export",
        "register_envs": "rl.register",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"ditcache_rl.{_HOME[name]}"), name)


__all__ = [
    "DeadlineEnv",
    "DeadlineVecEnv",
    "DenoiseEnv",
    "DenoiseVecEnv",
    "DenoiseVectorEnv",
    "Episodes",
    "Finished",
    "Hooks",
    "MaskablePriorPolicy",
    "OwnFeatures",
    "PlainPriorPolicy",
    "PriorQPolicy",
    "RewardTerms",
    "Rollout",
    "Scenario",
    "ServeEnv",
    "ServeVecEnv",
    "Service",
    "Task",
    "export_model",
    "export_pacer",
    "register_envs",
]
