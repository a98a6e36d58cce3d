"""Run a policy inside a diffusers pipeline; no gymnasium and no stable-baselines3 needed."""

from ditcache_rl.inference.api import attach, cached, open_policy
from ditcache_rl.inference.asked import Target, TargetsByRow, session, target
from ditcache_rl.inference.run import Adapter, Listener, Run
from ditcache_rl.inference.solver import policy_schedule, policy_scheduler
from ditcache_rl.inference.tables import Tables
from ditcache_rl.inference.targets import PolicyController

__all__ = [
    "Adapter",
    "Listener",
    "PolicyController",
    "Run",
    "Tables",
    "Target",
    "TargetsByRow",
    "attach",
    "cached",
    "open_policy",
    "policy_schedule",
    "policy_scheduler",
    "session",
    "target",
]
