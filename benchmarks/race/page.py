"""Show the frontier as a page that works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.race.frontiers import FrontierLine, curves
from benchmarks.race.sheet import cells_of
from ditcache_rl.evaluate.drawings import COLORS, DASHES, MARKERS, SPEEDUP_TICKS
from ditcache_rl.evaluate.methods import OURS
from ditcache_rl.files import replacing
from ditcache_rl.page import document, escaped, picture_uri, plot, plot_scripts, table

#: Speed-ups at which images are shown, as near as there are entrants.
SHOWN_SPEEDUPS = (2.0, 3.0)
#: How much stronger differences are drawn than they are.
AMPLIFIED = 8
#: Of an image on the page.
_MOST_BYTES = 40_000
_KINDS = {
    "fewer-steps": "fewer steps, other solvers",
    "peer": "packages",
    "heuristic": "published rules, our runner",
    "static": "ours, static",
    "learned": "ours, learned",
}


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
        f"<h1>Quality against measured speed-up</h1><p class='dc-soft'>{escaped(title)}. {facts}"
        "</p>",
        _plot(lines),
        "<h2>Figures</h2>",
        table(("figure", "value"), [(n, f"{v:.3f}") for n, v in figures.items()], label="Figures"),
        "<h2>All settings</h2>",
        _table(lines),
        f"<h2>Images: nearest to 2x and 3x, differences x {AMPLIFIED}</h2>" if pictures else "",
        *(
            _strips(lines, kept, prompt)
            for kept, prompt in zip(pictures, details["prompts"], strict=False)
        ),
        plot_scripts(),
    ]
    with replacing(path) as partial:
        partial.write_text(document(f"Frontier: {title}", parts), encoding="utf-8")


def _plot(lines: Sequence[FrontierLine]) -> str:
    seen: set[str] = set()
    data = []
    for place, (name, curve) in enumerate(curves(lines).items()):
        family = curve[0]["family"]
        own = family in OURS
        means = [(line["psnr_db"] or {})["mean"] for line in curve]
        ends = [(line["psnr_db"] or {})["ci95"] for line in curve]
        drawn: dict[str, Any] = {
            "type": "scatter",
            "x": [line["speedup"] for line in curve],
            "y": means,
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [high - mean for (_, high), mean in zip(ends, means, strict=True)],
                "arrayminus": [mean - low for (low, _), mean in zip(ends, means, strict=True)],
                "thickness": 0.7,
                "width": 2,
            },
            "mode": "lines+markers",
            "name": name,
            "legendgroup": family,
            "line": {
                "color": COLORS[family],
                "width": 3.5 if own else 1.3,
                "dash": DASHES[place // len(MARKERS) % len(DASHES)],
            },
            "marker": {"symbol": MARKERS[place % len(MARKERS)], "size": 9 if own else 6},
            "customdata": [cells_of(line) for line in curve],
            "hovertemplate": "<b>%{customdata[0]}</b>, %{customdata[1]}<br>%{x:.2f}x, %{y:.2f} dB"
            "<br>p5 %{customdata[6]} dB, SSIM %{customdata[7]}<br>executed %{customdata[3]}, "
            "cache %{customdata[8]} MiB, n = %{customdata[2]}<extra></extra>",
        }
        if family not in seen:
            drawn["legendgrouptitle"] = {"text": _KINDS[family]}
        seen.add(family)
        data.append(drawn)
    layout = {
        "xaxis": {
            "title": {"text": "measured speed-up of the pipeline call", "standoff": 24},
            "type": "log",
            "tickvals": SPEEDUP_TICKS,
            "ticktext": [f"{tick:g}×" for tick in SPEEDUP_TICKS],
        },
        "yaxis": {"title": {"text": "mean PSNR against the reference (dB)"}},
        # Below, in as many columns as there is room for, and never more than half of the height.
        "legend": {
            "orientation": "h",
            "yref": "container",
            "yanchor": "bottom",
            "y": 0,
            "groupclick": "toggleitem",
        },
    }
    label = "Mean PSNR against measured speed-up of all contenders; numbers are in the table below"
    figure = {"data": data, "layout": layout}
    return plot(figure, name="frontier", label=label, height_px=960)


def _table(lines: Sequence[FrontierLine]) -> str:
    titles = ("contender", "setting", "n", "executed", "speed-up", "PSNR dB", "p5", "SSIM", "MiB")
    cells = [
        cells_of(line)
        if line["error"] is None
        else [line["contender"], str(line["value"]), line["error"], *[""] * (len(titles) - 3)]
        for line in lines
    ]
    return table(titles, cells, label="All settings")


def _strips(lines: Sequence[FrontierLine], pictures: Mapping[str, Any], prompt: str) -> str:
    """Lay out one prompt: a piece per contender with two images and their differences."""
    markup = []
    for name, curve in curves(lines).items():
        reference = pictures.get(f"reference, {curve[0]['process']}")
        if reference is None:
            continue
        cells = [f"<td>{escaped(name)}</td>", _cell(reference, "reference")]
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
        f"<p>{escaped(prompt)}</p><div class='dc-scroll' tabindex='0' role='region' "
        f"aria-label='Images of {escaped(prompt)}'><table>{''.join(markup)}</table></div>"
    )


def label_of(line: FrontierLine) -> str:
    """Return the label of a line's entrant."""
    return f"{line['contender']}, {line['knob']} {line['value']}"


def _cell(image: Any, caption: str) -> str:
    alt = escaped(caption)
    return f"<td><img width='96' alt='{alt}' src='{picture_uri(image, _MOST_BYTES)}'><br>{alt}</td>"
