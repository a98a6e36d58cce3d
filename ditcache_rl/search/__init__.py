"""Search good static schedules, scored on the final image."""

from ditcache_rl.search.board import Board, Case, Quality
from ditcache_rl.search.climb import ClimbSettings, search_plan, spaced_plan
from ditcache_rl.search.replay import Replay
from ditcache_rl.search.rescale import rescale_plan
from ditcache_rl.search.space import Space, pay_up
from ditcache_rl.search.tree import grow_tree, tree_index, tree_schedules

__all__ = [
    "Board",
    "Case",
    "ClimbSettings",
    "Quality",
    "Replay",
    "Space",
    "grow_tree",
    "pay_up",
    "rescale_plan",
    "search_plan",
    "spaced_plan",
    "tree_index",
    "tree_schedules",
]
