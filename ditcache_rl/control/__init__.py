"""What decides: heuristics, static schedules and exported networks behind one protocol."""

from ditcache_rl.control.artifact import Manifest, Policy, load_policy, save_policy
from ditcache_rl.control.base import Controller, planned_modes, uniform_decision
from ditcache_rl.control.carry import Leveled, carry_plans
from ditcache_rl.control.graded import Grade, grade_sites, graded_modes
from ditcache_rl.control.heuristics import AllCompute, EasyCache, EveryK, FBCache, TeaCache
from ditcache_rl.control.network import (
    ActionSpace,
    ActionState,
    NetworkController,
    Plan,
    PlanRow,
    PolicyNetwork,
    best_actions,
)
from ditcache_rl.control.schedules import (
    Schedule,
    ScheduleFile,
    load_schedules,
    modes_text,
    save_schedules,
    weights_lists,
)
from ditcache_rl.control.static import StaticSchedule

__all__ = [
    "ActionSpace",
    "ActionState",
    "AllCompute",
    "Controller",
    "EasyCache",
    "EveryK",
    "FBCache",
    "Grade",
    "Leveled",
    "Manifest",
    "NetworkController",
    "Plan",
    "PlanRow",
    "Policy",
    "PolicyNetwork",
    "Schedule",
    "ScheduleFile",
    "StaticSchedule",
    "TeaCache",
    "best_actions",
    "carry_plans",
    "grade_sites",
    "graded_modes",
    "load_policy",
    "load_schedules",
    "modes_text",
    "planned_modes",
    "save_policy",
    "save_schedules",
    "uniform_decision",
    "weights_lists",
]
