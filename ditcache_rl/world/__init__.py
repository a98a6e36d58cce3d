"""What moves while an image is made, and who keeps a deadline in it: the clock and the load."""

from ditcache_rl.world.agent import Agent, Senses
from ditcache_rl.world.controller import DeadlineController, Gauges
from ditcache_rl.world.forecast import Forecast
from ditcache_rl.world.moment import Moment, Prices
from ditcache_rl.world.pacer import Pacer, Pacing
from ditcache_rl.world.rules import ByDeadline, Foreseeing, Replanning
from ditcache_rl.world.simulator import Decide, GapCosts, Requests, played

__all__ = [
    "Agent",
    "ByDeadline",
    "DeadlineController",
    "Decide",
    "Forecast",
    "Foreseeing",
    "GapCosts",
    "Gauges",
    "Moment",
    "Pacer",
    "Pacing",
    "Prices",
    "Replanning",
    "Requests",
    "Senses",
    "played",
]
