"""Measure methods against the reference on one machine, in one run, and report what came out."""

from ditcache_rl.evaluate.figures import plot_frontier, plot_grid, plot_sensitivity
from ditcache_rl.evaluate.methods import FAMILIES, Family, Method, default_baselines
from ditcache_rl.evaluate.page import write_page
from ditcache_rl.evaluate.report import Report, build_report
from ditcache_rl.evaluate.results import Results
from ditcache_rl.evaluate.run import Shot, Stopwatch, evaluate, silent
from ditcache_rl.evaluate.stats import (
    Spread,
    frontier_mix,
    interpolate_frontier,
)
from ditcache_rl.evaluate.tables import render_deadlines, render_table

__all__ = [
    "FAMILIES",
    "Family",
    "Method",
    "Report",
    "Results",
    "Shot",
    "Spread",
    "Stopwatch",
    "build_report",
    "default_baselines",
    "evaluate",
    "frontier_mix",
    "interpolate_frontier",
    "plot_frontier",
    "plot_grid",
    "plot_sensitivity",
    "render_deadlines",
    "render_table",
    "silent",
    "write_page",
]
