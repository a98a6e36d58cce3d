"""What moves while an image is made, and who keeps a deadline in it: the clock and the load."""

from ditcache_rl.world.agent import Agent, agent_input
from ditcache_rl.world.controller import DeadlineController, Gauges
from ditcache_rl.world.moment import Moment, Prices
from ditcache_rl.world.pacer import Pacer, Pacing
from ditcache_rl.world.rules import ByDeadline, Replanning
from ditcache_rl.world.simulator import Decide, GapCosts, Requests, played

__all__ = [
    "Agent",
    "ByDeadline",
    "DeadlineController",
    "Decide",
    "GapCosts",
    "Gauges",
    "Moment",
    "Pacer",
    "Pacing",
    "Prices",
    "Replanning",
    "Requests",
    "agent_input",
    "played",
]
