"""Make the shipped environments known to Gymnasium; imports neither torch nor what learns."""

from __future__ import annotations

from ditcache_rl.config import shipped_ids

SERVE_ID = "ditcache/serve-v0"


def register_envs() -> None:
    """Register `ditcache/<name>-vN` for every shipped environment file, and the one without.

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
    if SERVE_ID not in registry:
        register(SERVE_ID, "ditcache_rl.rl.serve_env:ServeEnv")
