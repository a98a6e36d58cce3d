"""Several requests on one machine: who computes at a tick, how often, and what that is worth."""

from ditcache_rl.queueing.fronts import Fronts, Worth
from ditcache_rl.queueing.machines import Answered, Machines, serve
from ditcache_rl.queueing.rules import (
    PRICES_DB,
    ChosenAtAdmission,
    FairShare,
    FittingPrice,
    FixedSchedule,
    PressurePrice,
    Rule,
    at_price,
    pressure,
)
from ditcache_rl.queueing.state import QueueState, TickCosts
from ditcache_rl.queueing.traffic import Traffic

__all__ = [
    "PRICES_DB",
    "Answered",
    "ChosenAtAdmission",
    "FairShare",
    "FittingPrice",
    "FixedSchedule",
    "Fronts",
    "Machines",
    "PressurePrice",
    "QueueState",
    "Rule",
    "TickCosts",
    "Traffic",
    "Worth",
    "at_price",
    "pressure",
    "serve",
]
