"""Plots that are moved with the mouse: figures of plotly, in the colours of the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ditcache_rl.machine import require
from ditcache_rl.page.pieces import Html, escaped


def plot(figure: dict[str, Any], *, name: str, label: str, height_px: int = 420) -> Html:
    """Place a plot; it is drawn once the page is there.

    Args:
        figure: `data` and `layout` as plotly takes them; colours of text and axes are the page's.
        name: Of the plot, an identifier that no other of the page has.
        label: What is to be seen, for whoever does not see it.
        height_px: Of the plot.
    """
    # Within a script element `</script` would end it, and `<!--<script` keep it open.
    data = json.dumps(figure, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<div class="dc-plot" id="{name}" role="img" aria-label="{escaped(label)}" '
        f'style="height:{height_px}px"></div>'
        f'<script type="application/json" data-plot="{name}">{data}</script>'
    )


def plot_scripts() -> Html:
    """Return what draws the plots of a page, to be placed once, below them.

    Raises:
        ConfigError: If plotly is not installed.
    """
    require("report", "plotly")
    from plotly.offline import get_plotlyjs

    own = Path(__file__).with_name("plots.js").read_text(encoding="utf-8")
    return f"<script>{get_plotlyjs()}</script><script>{own}</script>"
