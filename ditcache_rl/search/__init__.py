"""Search good static schedules, scored on the final image."""

from ditcache_rl.search.board import Board, Case, Quality
from ditcache_rl.search.climb import ClimbSettings, pay_up, search_plan, spaced_plan
from ditcache_rl.search.rescale import rescale_plan

__all__ = [
    "Board",
    "Case",
    "ClimbSettings",
    "Quality",
    "pay_up",
    "rescale_plan",
    "search_plan",
    "spaced_plan",
]
