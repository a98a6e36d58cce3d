"""Policies: what was learned, its folder, its card and its place on the Hub, and schedule files."""

from ditcache_rl.policy.folder import load_policy
from ditcache_rl.policy.manifest import Manifest, NetworkUse
from ditcache_rl.policy.policy import Policy
from ditcache_rl.policy.save import save_policy
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
