"""Schedules as data: what computes when, what fills the gaps, what it costs and is worth."""

from ditcache_rl.schedules.carry import Leveled, carry_plans
from ditcache_rl.schedules.cost import CostModel, fit_cost, nominal_cost

__all__ = [
    "CostModel",
    "Leveled",
    "carry_plans",
    "fit_cost",
    "nominal_cost",
]
