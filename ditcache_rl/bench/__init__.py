"""The laboratory: draw images under a controller, replay loops, measure costs."""

from ditcache_rl.bench.board import (
    Board,
    Case,
    Quality,
    board_of,
    budget_of,
    budgets_of,
    caps_of,
    cases_of,
)
from ditcache_rl.bench.profile import measure_profile
from ditcache_rl.bench.replay import Replay

__all__ = [
    "Board",
    "Case",
    "Quality",
    "Replay",
    "board_of",
    "budget_of",
    "budgets_of",
    "caps_of",
    "cases_of",
    "measure_profile",
]
