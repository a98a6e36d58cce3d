"""Run a policy inside a diffusers pipeline; no gymnasium and no stable-baselines3 needed."""

from ditcache_rl.inference.api import Run, attach, cached, open_policy
from ditcache_rl.inference.bandit import Arm, Bandit, arms_of
from ditcache_rl.inference.identity import check_identity, model_identity, scheduler_identity
from ditcache_rl.inference.pipeline import open_configured, open_pipeline
from ditcache_rl.inference.profile import measure_profile
from ditcache_rl.inference.record import History, Recorder, read_histories
from ditcache_rl.inference.session import session
from ditcache_rl.inference.targets import (
    KnownPlans,
    PolicyController,
    ScheduleController,
    Wish,
    tradeoff_budget,
)

__all__ = [
    "Arm",
    "Bandit",
    "History",
    "KnownPlans",
    "PolicyController",
    "Recorder",
    "Run",
    "ScheduleController",
    "Wish",
    "arms_of",
    "attach",
    "cached",
    "check_identity",
    "measure_profile",
    "model_identity",
    "open_configured",
    "open_pipeline",
    "open_policy",
    "read_histories",
    "scheduler_identity",
    "session",
    "tradeoff_budget",
]
