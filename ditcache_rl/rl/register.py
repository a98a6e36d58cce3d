"""Make the shipped environments known to Gymnasium; imports neither torch nor what learns."""

from __future__ import annotations

from ditcache_rl.config import shipped_ids


def register_envs() -> None:
    """Register `ditcache/<name>-vN` for every shipped environment file; twice is harmless."""
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
