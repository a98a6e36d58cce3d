"""Say what the plots of a report's page show, in the words of plotly."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from ditcache_rl.evaluate.methods import OURS
from ditcache_rl.evaluate.report import Pair, Report, ReportLine, TraceLine
from ditcache_rl.evaluate.tables import place_of, shown
from ditcache_rl.page import Html, plot

#: By family; all can be told from white and from black.
COLORS = {
    "fewer-steps": "#858b96",
    "heuristic": "#4f8fd6",
    "peer": "#c07a2c",
    "static": "#e0364f",
    "learned": "#a46be0",
    "deadline": "#2a9d8f",
}
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x", "star", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot")
#: Of an axis of speed-ups, which is one of logarithms.
SPEEDUP_TICKS = (1, 1.5, 2, 3, 4, 5, 6, 8, 12, 16)
_KINDS = {
    "fewer-steps": "fewer steps",
    "heuristic": "published rules",
    "peer": "packages",
    "static": "ours, static",
    "learned": "ours, learned",
}
#: From nothing computed to everything; the page shows through where nothing is.
_SHADES = [[0.0, "rgba(133,139,150,0.14)"], [1.0, "#d22350"]]
_PX_PER_LINE, _LEAST_PX = 22, 140


def frontier_plot(report: Report) -> Html:
    """Draw mean PSNR against measured speed-up, a line per method."""
    curves: dict[tuple[str, str], list[ReportLine]] = {}
    for line in sorted(report["rows"], key=place_of):
        if line["family"] != "reference" and line["psnr_db"]["mean"] is not None:
            curves.setdefault((line["family"], line["method"]), []).append(line)
    seen: set[str] = set()
    data = []
    for number, ((family, method), lines) in enumerate(curves.items()):
        own = family in OURS
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": method,
            "legendgroup": family,
            "x": [line["speedup"] for line in lines],
            "y": [line["psnr_db"]["mean"] for line in lines],
            "text": [_spoken(line) for line in lines],
            "hovertemplate": "<b>%{fullData.name}</b>, %{text}<extra></extra>",
            "line": {
                "color": COLORS[family],
                "width": 3.5 if own else 1.5,
                "dash": DASHES[number // len(MARKERS) % len(DASHES)],
            },
            "marker": {"symbol": MARKERS[number % len(MARKERS)], "size": 10 if own else 7},
        }
        if family not in seen:
            trace["legendgrouptitle"] = {"text": _KINDS[family]}
        seen.add(family)
        data.append(trace)
    layout = {
        "xaxis": {
            "title": {"text": "measured speed-up of the pipeline call", "standoff": 24},
            "type": "log",
            "tickvals": SPEEDUP_TICKS,
            "ticktext": [f"{tick:g}×" for tick in SPEEDUP_TICKS],
        },
        "yaxis": {"title": {"text": "mean PSNR (dB)"}},
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0},
    }
    return plot(
        {"data": data, "layout": layout},
        name="frontier-plot",
        label="Mean PSNR against measured speed-up of all methods; numbers are in the table below",
        height_px=620,
    )


def _spoken(line: ReportLine) -> str:
    return (
        f"{line['target']}<br>{shown(line['speedup'], '.2f')}×, "
        f"{shown(line['psnr_db']['mean'], '.2f')} dB<br>"
        f"p5 {shown(line['psnr_db']['p5'], '.2f')} dB, SSIM {shown(line['ssim']['mean'], '.4f')}"
        f"<br>computed {shown(line['compute_share'], '.0%')}"
    )


def decisions_plot(report: Report) -> Html:
    """Draw the share of images and sites that computed at every step, static above online."""
    lines = sorted(report["traces"], key=lambda one: len(one["modes"]) > 1)
    names = [
        f"{one['method']}, {one['target']} ({'online' if len(one['modes']) > 1 else 'static'})"
        for one in lines
    ]
    figure = {
        "data": [
            {
                "type": "heatmap",
                "y": names,
                "z": [computed_share(one) for one in lines],
                "zmin": 0,
                "zmax": 1,
                "colorscale": _SHADES,
                "showscale": False,
                "xgap": 1,
                "ygap": 1,
                "hovertemplate": "%{y}<br>step %{x}: computed in %{z:.0%}<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "step"}, "showgrid": False},
            "yaxis": {"autorange": "reversed", "showgrid": False, "tickfont": {"size": 11}},
            "margin": {"l": 240},
        },
    }
    return plot(
        figure,
        name="decisions-plot",
        label="Share of images that computed at every step, by setting, static above online",
        height_px=max(_LEAST_PX, 70 + _PX_PER_LINE * len(lines)),
    )


def computed_share(line: TraceLine) -> list[float]:
    """Return the share of images and sites that computed, by step."""
    sites = [list(site) for modes in line["modes"] for site in modes.split(" | ")]
    return [float(share) for share in (np.array(sites) == "C").mean(axis=0)]


def gains_plot(pair: Pair, prompts: Sequence[str], *, name: str) -> Html:
    """Draw the gains of all prompts, the largest first."""
    # Plotly reads markup in texts, and of what stands for a quote it knows nothing.
    known = [
        (gain, html.escape(text, quote=False))
        for gain, text in zip(pair["gains_db"], prompts, strict=False)
        if gain is not None
    ]
    known.sort(reverse=True)
    gains = [gain for gain, _ in known]
    figure = {
        "data": [
            {
                "type": "bar",
                "x": list(range(1, len(gains) + 1)),
                "y": gains,
                "text": [text for _, text in known],
                "textposition": "none",
                "hovertemplate": "%{y:+.2f} dB<br>%{text}<extra></extra>",
                "marker": {"color": [COLORS["static" if g >= 0 else "fewer-steps"] for g in gains]},
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "prompts, sorted"}, "showgrid": False},
            "yaxis": {"title": {"text": "gain (dB)"}},
            "bargap": 0.15,
        },
    }
    label = f"Gains of {pair['method']}, {pair['target']} over {pair['against']}, sorted"
    return plot(figure, name=name, label=label, height_px=260)
