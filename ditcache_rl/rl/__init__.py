"""The environments, and learning in them: the only part that knows gymnasium and SB3."""

from ditcache_rl.rl.env import DenoiseEnv
from ditcache_rl.rl.episodes import Episodes
from ditcache_rl.rl.register import register_envs
from ditcache_rl.rl.rollout import Finished, Rollout
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.serve_env import ServeEnv, ServeVecEnv
from ditcache_rl.rl.serving import Service
from ditcache_rl.rl.vec_env import DenoiseVecEnv

__all__ = [
    "DenoiseEnv",
    "DenoiseVecEnv",
    "Episodes",
    "Finished",
    "Rollout",
    "Scenario",
    "ServeEnv",
    "ServeVecEnv",
    "Service",
    "Task",
    "register_envs",
]

register_envs()
