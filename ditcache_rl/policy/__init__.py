"""Policies: what was learned, its folder, and schedule files."""

from ditcache_rl.policy.folder import Manifest, Policy, load_policy, save_policy
from ditcache_rl.policy.schedule_file import (
    Schedule,
    ScheduleFile,
    load_schedules,
    modes_text,
    save_schedules,
    weights_lists,
)

__all__ = [
    "Manifest",
    "Policy",
    "Schedule",
    "ScheduleFile",
    "load_policy",
    "load_schedules",
    "modes_text",
    "save_policy",
    "save_schedules",
    "weights_lists",
]
