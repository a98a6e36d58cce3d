"""The environments, and learning in them: the only part that knows gymnasium and SB3.

Raises:
    ConfigError: On import, if what learning needs is not installed.
"""

# ruff: noqa: E402  # what is missing is named before anything asks for it

from ditcache_rl.machine import LEARNING, require

require("train", *LEARNING)

from ditcache_rl.rl.env import DenoiseEnv
from ditcache_rl.rl.episodes import Episodes
from ditcache_rl.rl.register import register_envs
from ditcache_rl.rl.rollout import Finished, Rollout
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.vec_env import DenoiseVecEnv

__all__ = [
    "DenoiseEnv",
    "DenoiseVecEnv",
    "Episodes",
    "Finished",
    "Rollout",
    "Scenario",
    "Task",
    "register_envs",
]

register_envs()
