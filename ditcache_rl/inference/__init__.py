"""Run a policy inside a diffusers pipeline; no gymnasium and no stable-baselines3 needed."""

from ditcache_rl.inference.api import Run, attach, cached
from ditcache_rl.inference.identity import model_identity, scheduler_identity
from ditcache_rl.inference.profile import measure_profile
from ditcache_rl.inference.targets import PolicyController, Wish

__all__ = [
    "PolicyController",
    "Run",
    "Wish",
    "attach",
    "cached",
    "measure_profile",
    "model_identity",
    "scheduler_identity",
]
