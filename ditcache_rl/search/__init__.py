"""Search good static schedules: by final images, by calibrated errors, or all of them."""

from ditcache_rl.search.fit import GapFitter
from ditcache_rl.search.hard import Sample, sample_cases
from ditcache_rl.search.methods import METHODS, Search
from ditcache_rl.search.problem import Problem, Propose
from ditcache_rl.search.proposals import Calibration, gap_proposals, proposals
from ditcache_rl.search.space import Space
from ditcache_rl.search.tiers import charge_in, place
from ditcache_rl.search.trials import Score, Trials

__all__ = [
    "METHODS",
    "Calibration",
    "GapFitter",
    "Problem",
    "Propose",
    "Sample",
    "Score",
    "Search",
    "Space",
    "Trials",
    "charge_in",
    "gap_proposals",
    "place",
    "proposals",
    "sample_cases",
]
