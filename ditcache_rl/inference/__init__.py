"""Run a policy inside a diffusers pipeline; no gymnasium and no stable-baselines3 needed."""

from ditcache_rl.inference.api import attach, cached, open_policy
from ditcache_rl.inference.run import Adapter, Listener, Run
from ditcache_rl.inference.targets import (
    KnownPlans,
    PolicyController,
    ScheduleController,
    Wish,
    tradeoff_budget,
)

__all__ = [
    "Adapter",
    "KnownPlans",
    "Listener",
    "PolicyController",
    "Run",
    "ScheduleController",
    "Wish",
    "attach",
    "cached",
    "open_policy",
    "tradeoff_budget",
]
