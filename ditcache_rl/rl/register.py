"""Make the shipped environments known to gymnasium."""

from __future__ import annotations

import gymnasium as gym

from ditcache_rl.config import load_env, shipped_envs

SERVE_ID = "ditcache/serve-v0"


def register_envs() -> None:
    """Register `ditcache/<name>-vN` for every shipped environment file, and the one without.

    Twice is harmless.
    """
    for name in shipped_envs():
        env_id = load_env(name).id
        if env_id not in gym.registry:
            gym.register(env_id, "ditcache_rl.rl.env:DenoiseEnv", kwargs={"config": name})
    if SERVE_ID not in gym.registry:
        gym.register(SERVE_ID, "ditcache_rl.rl.serve_env:ServeEnv")
