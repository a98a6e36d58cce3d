"""Show the frontier as a page that works offline."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.race.frontiers import OURS, FrontierLine, curves
from benchmarks.race.sheet import COLORS, cells_of
from ditcache_rl.errors import ConfigError

#: Speed-ups at which images are shown, as near as there are entrants.
SHOWN_SPEEDUPS = (2.0, 3.0)
#: How much stronger differences are drawn than they are.
AMPLIFIED = 8
#: Sides of the images on the page.
_MOST_PX = 192
_KINDS = {
    "fewer-steps": "fewer steps, other solvers",
    "peer": "packages",
    "heuristic": "published rules, our runner",
    "static": "ours, static",
    "learned": "ours, learned",
}
_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x", "star", "pentagon")
_DASHES = ("solid", "dash", "dot", "dashdot")
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 1.5rem;
  color: #1d1d1f; background: #fff; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p.facts { color: #555; margin: 0 0 1rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { padding: 3px 9px; text-align: right; border-bottom: 1px solid #e6e6e6; }
th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #999; }
th:first-child, td:first-child, td.left, th.left { text-align: left; }
tr.ours td { font-weight: 600; color: #a50d26; } td.error { color: #777; text-align: left; }
table.strips td { border: 0; padding: 2px 6px; text-align: center; font-size: 12px; }
table.strips img { image-rendering: pixelated; width: 96px; height: auto; display: block; }
"""


def write_page(
    path: Path,
    lines: Sequence[FrontierLine],
    figures: Mapping[str, float],
    details: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]],
) -> None:
    """Write the page: plot, figures, table and images, in one file that needs no network.

    Raises:
        ConfigError: If plotly is not installed.
    """
    title = f"{details['pipeline']}, {details['steps']} steps"
    facts = (
        f"{len(details['prompts'])} prompts, batch 1, {details['threads']} threads. Speed-up is "
        "wall-clock of the whole pipeline call, medians, all contenders in turn; quality is "
        "against the reference of the same process, prompt and seed; bars are 95 % bootstrap "
        "intervals."
    )
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Frontier: {html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Quality against measured speed-up</h1><p class='facts'>{html.escape(title)}. {facts}",
        "</p>",
        _plot(lines),
        "<h2>Figures</h2>",
        _figures(figures),
        "<h2>All settings</h2>",
        _table(lines),
        f"<h2>Images: nearest to 2x and 3x, differences x {AMPLIFIED}</h2>",
        *(
            _strips(lines, kept, prompt)
            for kept, prompt in zip(pictures, details["prompts"], strict=False)
        ),
        "</body></html>",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def _plot(lines: Sequence[FrontierLine]) -> str:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ConfigError(
            "expected plotly for the page, but it is not installed: pip install "
            "'ditcache-rl[peers]'"
        ) from error
    figure = go.Figure()
    seen: set[str] = set()
    for place, (name, curve) in enumerate(curves(lines).items()):
        family = curve[0]["family"]
        own = family in OURS
        means = [(line["psnr_db"] or {})["mean"] for line in curve]
        ends = [(line["psnr_db"] or {})["ci95"] for line in curve]
        figure.add_trace(
            go.Scatter(
                x=[line["speedup"] for line in curve],
                y=means,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - mean for (_, high), mean in zip(ends, means, strict=True)],
                    "arrayminus": [mean - low for (low, _), mean in zip(ends, means, strict=True)],
                    "thickness": 0.7,
                    "width": 2,
                },
                mode="lines+markers",
                name=name,
                legendgroup=family,
                legendgrouptitle_text=None if family in seen else _KINDS[family],
                line={
                    "color": COLORS[family],
                    "width": 3.5 if own else 1.3,
                    "dash": _DASHES[place // len(_MARKERS) % 4],
                },
                marker={"symbol": _MARKERS[place % len(_MARKERS)], "size": 9 if own else 6},
                customdata=[cells_of(line) for line in curve],
                hovertemplate="<b>%{customdata[0]}</b>, %{customdata[1]}<br>%{x:.2f}x, %{y:.2f} dB"
                "<br>p5 %{customdata[6]} dB, SSIM %{customdata[7]}<br>executed %{customdata[3]}, "
                "cache %{customdata[8]} MiB, n = %{customdata[2]}<extra></extra>",
            )
        )
        seen.add(family)
    figure.update_layout(
        template="plotly_white",
        height=960,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis={
            "title": "measured speed-up of the pipeline call",
            "type": "log",
            "tickvals": [1, 1.5, 2, 3, 4.5, 6, 8],
            "ticksuffix": "x",
        },
        yaxis={"title": "mean PSNR against the reference (dB)"},
        # Below, in as many columns as there is room for, and never more than half of the height.
        legend={
            "orientation": "h",
            "yref": "container",
            "yanchor": "bottom",
            "y": 0,
            "font": {"size": 11},
            "groupclick": "toggleitem",
        },
    )
    plot: str = figure.to_html(
        full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True}
    )
    return plot


def _figures(figures: Mapping[str, float]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.3f}</td></tr>"
        for name, value in figures.items()
    )
    return f"<div class='scroll'><table style='width:auto'>{cells}</table></div>"


def _table(lines: Sequence[FrontierLine]) -> str:
    titles = ("contender", "setting", "n", "executed", "speed-up", "PSNR dB", "p5", "SSIM", "MiB")
    markup = [
        "".join(f"<th class='{'left' if n < 2 else ''}'>{t}</th>" for n, t in enumerate(titles))
    ]
    for line in lines:
        if line["error"] is not None:
            markup.append(
                f"<td>{html.escape(line['contender'])}</td><td class='left'>{line['value']}</td>"
                f"<td class='error' colspan='7'>{html.escape(line['error'])}</td>"
            )
            continue
        cells = [html.escape(cell) for cell in cells_of(line)]
        left = f"<td>{cells[0]}</td><td class='left'>{cells[1]}</td>"
        markup.append(left + "".join(f"<td>{cell}</td>" for cell in cells[2:]))
    kinds = [False, *(line["family"] in OURS for line in lines)]
    body = "".join(
        f"<tr class='{'ours' if own else ''}'>{piece}</tr>"
        for own, piece in zip(kinds, markup, strict=True)
    )
    return f"<div class='scroll'><table>{body}</table></div>"


def _strips(lines: Sequence[FrontierLine], pictures: Mapping[str, Any], prompt: str) -> str:
    """Lay out one prompt: a piece per contender with two images and their differences."""
    markup = []
    for name, curve in curves(lines).items():
        reference = pictures.get(f"reference, {curve[0]['process']}")
        if reference is None:
            continue
        cells = [f"<td class='left'>{html.escape(name)}</td>", _cell(reference, "reference")]
        for wanted in SHOWN_SPEEDUPS:
            line = min(curve, key=lambda one: abs((one["speedup"] or 0) - wanted))
            image = pictures.get(label_of(line))
            if image is None:
                continue
            distance = np.abs(image.astype(int) - reference.astype(int)) * AMPLIFIED
            cells.append(_cell(image, f"{line['value']}: {line['speedup']:.2f}x"))
            cells.append(_cell(distance.clip(0, 255).astype(np.uint8), "difference"))
        markup.append("<tr>" + "".join(cells) + "</tr>")
    return (
        f"<p>{html.escape(prompt)}</p><div class='scroll'><table class='strips' "
        f"style='width:auto'>{''.join(markup)}</table></div>"
    )


def label_of(line: FrontierLine) -> str:
    """Return the label of a line's entrant."""
    return f"{line['contender']}, {line['knob']} {line['value']}"


def _cell(image: Any, caption: str) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((_MOST_PX, _MOST_PX))
    data = io.BytesIO()
    picture.save(data, "png")
    text = base64.b64encode(data.getvalue()).decode()
    alt = html.escape(caption)
    return f"<td><img alt='{alt}' src='data:image/png;base64,{text}'>{alt}</td>"
