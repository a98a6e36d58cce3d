"""What decides: heuristics, static schedules and exported networks behind one protocol."""

from ditcache_rl.control.actions import ActionSpace, ActionState, best_actions
from ditcache_rl.control.base import (
    Asked,
    Controller,
    Delegating,
    planned_modes,
    start_over,
    target_of,
    uniform_decision,
)
from ditcache_rl.control.guard import Guard, GuardedController
from ditcache_rl.control.heuristics import AllCompute, EasyCache, EveryK, FBCache, Newton, TeaCache
from ditcache_rl.control.network import NetworkController, PolicyNetwork
from ditcache_rl.control.static import StaticSchedule, followed

__all__ = [
    "ActionSpace",
    "ActionState",
    "AllCompute",
    "Asked",
    "Controller",
    "Delegating",
    "EasyCache",
    "EveryK",
    "FBCache",
    "Guard",
    "GuardedController",
    "NetworkController",
    "Newton",
    "PolicyNetwork",
    "StaticSchedule",
    "TeaCache",
    "best_actions",
    "followed",
    "planned_modes",
    "start_over",
    "target_of",
    "uniform_decision",
]
