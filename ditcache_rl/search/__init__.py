"""Search good static schedules, scored on the final image."""

from ditcache_rl.search.board import Board, Case, Quality
from ditcache_rl.search.climb import ClimbSettings, search_plan, spaced_plan

__all__ = ["Board", "Case", "ClimbSettings", "Quality", "search_plan", "spaced_plan"]
