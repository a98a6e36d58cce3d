"""Make the shipped environments known to Gymnasium; imports neither torch nor what learns."""

from __future__ import annotations

from ditcache_rl.config import shipped_ids

#: Environments without a file.
_OTHERS = {
    "ditcache/serve-v0": "ditcache_rl.rl.serve_env:ServeEnv",
    "ditcache/deadline-v0": "ditcache_rl.rl.deadline_env:DeadlineEnv",
}


def register_envs() -> None:
    """Register `ditcache/<name>-vN` for every shipped environment file, and those without.

    Twice is harmless.
    """
    # Importing it calls this function, see `_announce`: it must be there by then.
    from gymnasium.envs.registration import register, registry

    for name, env_id in shipped_ids().items():
        if env_id not in registry:
            register(
                env_id,
                "ditcache_rl.rl.env:DenoiseEnv",
                vector_entry_point="ditcache_rl.rl.vector:DenoiseVectorEnv",
                kwargs={"config": name},
            )
    for env_id, home in _OTHERS.items():
        if env_id not in registry:
            register(env_id, home)
