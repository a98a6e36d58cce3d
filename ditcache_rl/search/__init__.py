"""Search good static schedules: by final images, by calibrated errors, or all of them."""

from ditcache_rl.search.board import (
    Board,
    Case,
    Quality,
    board_of,
    budget_of,
    budgets_of,
    caps_of,
    cases_of,
)
from ditcache_rl.search.climb import ClimbSettings, search_plan, spaced_plan
from ditcache_rl.search.fit import Rollouts, search_fitted_plan
from ditcache_rl.search.hard import Sample, sample_cases
from ditcache_rl.search.methods import METHODS, Entry, Found, Method, Problem, found_in
from ditcache_rl.search.proposals import Calibration, planned_rows, proposals
from ditcache_rl.search.replay import Replay
from ditcache_rl.search.rescale import rescale_plan
from ditcache_rl.search.space import Row, Space, pay_up
from ditcache_rl.search.tree import grow_tree, tree_index, tree_schedules
from ditcache_rl.search.trials import Score, Trials, Weights

__all__ = [
    "METHODS",
    "Board",
    "Calibration",
    "Case",
    "ClimbSettings",
    "Entry",
    "Found",
    "Method",
    "Problem",
    "Quality",
    "Replay",
    "Rollouts",
    "Row",
    "Sample",
    "Score",
    "Space",
    "Trials",
    "Weights",
    "board_of",
    "budget_of",
    "budgets_of",
    "caps_of",
    "cases_of",
    "found_in",
    "grow_tree",
    "pay_up",
    "planned_rows",
    "proposals",
    "rescale_plan",
    "sample_cases",
    "search_fitted_plan",
    "search_plan",
    "spaced_plan",
    "tree_index",
    "tree_schedules",
]
