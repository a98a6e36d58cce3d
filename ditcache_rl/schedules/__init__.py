"""Schedules as data: what computes when, what fills the gaps, what it costs and is worth."""

from ditcache_rl.schedules.carry import carry, rescale
from ditcache_rl.schedules.cost import CostModel, computes_of, fit_cost, nominal_cost
from ditcache_rl.schedules.expected import Expectation
from ditcache_rl.schedules.objective import Objective
from ditcache_rl.schedules.reached import Reached, share_above
from ditcache_rl.schedules.schedule import ComputePath, Schedule, modes_text
from ditcache_rl.schedules.spacing import spaced, spaced_table
from ditcache_rl.schedules.table import ScheduleTable, Scored

__all__ = [
    "ComputePath",
    "CostModel",
    "Expectation",
    "Objective",
    "Reached",
    "Schedule",
    "ScheduleTable",
    "Scored",
    "carry",
    "computes_of",
    "fit_cost",
    "modes_text",
    "nominal_cost",
    "rescale",
    "share_above",
    "spaced",
    "spaced_table",
]
