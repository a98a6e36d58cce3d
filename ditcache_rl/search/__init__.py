"""Search good static schedules: by final images, by calibrated errors, or all of them."""

from ditcache_rl.search.climb import ClimbSettings, search_plan, spaced_plan
from ditcache_rl.search.fit import Rollouts, search_fitted_plan
from ditcache_rl.search.hard import Sample, sample_cases
from ditcache_rl.search.methods import METHODS, Entry, Found, Method, Problem, found_in
from ditcache_rl.search.proposals import Calibration, planned_rows, proposals
from ditcache_rl.search.rescale import rescale_plan
from ditcache_rl.search.space import Row, Space, pay_up
from ditcache_rl.search.trials import Score, Trials, Weights

__all__ = [
    "METHODS",
    "Calibration",
    "ClimbSettings",
    "Entry",
    "Found",
    "Method",
    "Problem",
    "Rollouts",
    "Row",
    "Sample",
    "Score",
    "Space",
    "Trials",
    "Weights",
    "found_in",
    "pay_up",
    "planned_rows",
    "proposals",
    "rescale_plan",
    "sample_cases",
    "search_fitted_plan",
    "search_plan",
    "spaced_plan",
]
