"""Make the shipped environments known to gymnasium."""

from __future__ import annotations

import gymnasium as gym

from ditcache_rl.config import load_env, shipped_envs


def register_envs() -> None:
    """Register `ditcache/<name>-vN` for every shipped environment file; twice is harmless."""
    for name in shipped_envs():
        env_id = load_env(name).id
        if env_id not in gym.registry:
            gym.register(env_id, "ditcache_rl.rl.env:DenoiseEnv", kwargs={"config": name})
