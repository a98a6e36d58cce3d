"""Measure methods against the reference on one machine, in one run, and report what came out."""

from ditcache_rl.evaluate.figures import plot_frontier, plot_grid
from ditcache_rl.evaluate.methods import FAMILIES, Family, Method, default_baselines
from ditcache_rl.evaluate.report import Report, build_report, render_table
from ditcache_rl.evaluate.results import Results
from ditcache_rl.evaluate.run import Bench, Shot, evaluate, silent
from ditcache_rl.evaluate.stats import (
    Interval,
    Spread,
    bootstrap_mean,
    interpolate_frontier,
    interpolation_weights,
    spread_of,
)

__all__ = [
    "FAMILIES",
    "Bench",
    "Family",
    "Interval",
    "Method",
    "Report",
    "Results",
    "Shot",
    "Spread",
    "bootstrap_mean",
    "build_report",
    "default_baselines",
    "evaluate",
    "interpolate_frontier",
    "interpolation_weights",
    "plot_frontier",
    "plot_grid",
    "render_table",
    "silent",
    "spread_of",
]
