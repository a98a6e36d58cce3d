"""Policies: what was learned, its folder, and schedule files."""

from ditcache_rl.policy.folder import load_policy, save_policy
from ditcache_rl.policy.policy import Manifest, NetworkUse, Policy
from ditcache_rl.policy.schedule_file import load_schedules, save_schedules

__all__ = [
    "Manifest",
    "NetworkUse",
    "Policy",
    "load_policy",
    "load_schedules",
    "save_policy",
    "save_schedules",
]
