"""Pieces of pages that work without a network: a frame, pictures, a slider, decisions, tables.

A piece is HTML as text. Nothing here measures anything or knows what the numbers mean.
"""

from ditcache_rl.page.frame import STYLE, document
from ditcache_rl.page.pieces import (
    MOST_PICTURE_BYTES,
    Html,
    compare,
    escaped,
    legend,
    picture_uri,
    strip,
    table,
)
from ditcache_rl.page.plots import plot, plot_scripts

__all__ = [
    "MOST_PICTURE_BYTES",
    "STYLE",
    "Html",
    "compare",
    "document",
    "escaped",
    "legend",
    "picture_uri",
    "plot",
    "plot_scripts",
    "strip",
    "table",
]
