"""Measure how much the image depends on each site at each step, and grade the sites."""

from ditcache_rl.sensitivity.attention import AttentionMap, attention_sensitivity
from ditcache_rl.sensitivity.grades import Grade, grade_sites, graded_modes
from ditcache_rl.sensitivity.gradient import gradient_sensitivity
from ditcache_rl.sensitivity.injection import injection_sensitivity
from ditcache_rl.sensitivity.listen import SUBLAYERS, count_sites
from ditcache_rl.sensitivity.maps import (
    MEASURES,
    SensitivityMap,
    load_map,
    rank_correlation,
    save_map,
    typical,
)

__all__ = [
    "MEASURES",
    "SUBLAYERS",
    "AttentionMap",
    "Grade",
    "SensitivityMap",
    "attention_sensitivity",
    "count_sites",
    "grade_sites",
    "graded_modes",
    "gradient_sensitivity",
    "injection_sensitivity",
    "load_map",
    "rank_correlation",
    "save_map",
    "typical",
]
