"""Show the frontier in the terminal, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.race.frontiers import OURS, FrontierLine, curves

#: One hue per kind of contender, ours strong; lines of a kind differ by marker and dash.
COLORS = {
    "fewer-steps": "#5c5c5c",
    "peer": "#b5651d",
    "heuristic": "#7a9cc6",
    "static": "#c8102e",
    "learned": "#7b1fa2",
}
_MARKERS = "osD^vX*p"


def show(lines: Sequence[FrontierLine], console: Console) -> None:
    """Print a line per entrant."""
    sheet = Table(title="speed-up and quality against the reference")
    for title in ("contender", "setting"):
        sheet.add_column(title)
    for title in ("n", "executed", "speed-up", "PSNR dB", "p5", "SSIM", "cache MiB"):
        sheet.add_column(title, justify="right")
    for line in lines:
        if line["error"] is not None:
            sheet.add_row(
                line["contender"], f"{line['value']}", "0", line["error"][:60], style="dim"
            )
        else:
            sheet.add_row(*cells_of(line), style="bold" if line["family"] in OURS else None)
    console.print(sheet)


def cells_of(line: FrontierLine) -> list[str]:
    """Lay out an entrant that was measured."""
    psnr, ssim = line["psnr_db"] or {}, line["ssim"] or {}
    return [
        line["contender"],
        f"{line['knob']} {line['value']}".strip(),
        str(line["n"]),
        _form(line["executed_share"], ".0%"),
        _form(line["speedup"], ".2f"),
        _form(psnr.get("mean"), ".2f"),
        _form(psnr.get("p5"), ".2f"),
        _form(ssim.get("mean"), ".4f"),
        _form((line["cache_bytes"] or 0) / 2**20, ".2f"),
    ]


def _form(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def write_png(path: Path, lines: Sequence[FrontierLine], images: int, steps: int) -> None:
    """Draw mean PSNR against measured speed-up, one line per contender, into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves(lines).items()):
        family = curve[0]["family"]
        own = family in OURS
        axes.plot(
            np.array([line["speedup"] for line in curve], dtype=float),
            [(line["psnr_db"] or {})["mean"] for line in curve],
            color=COLORS[family],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=6 if own else 3.5,
            linewidth=2.6 if own else 0.9,
            linestyle=("-", "--", ":", "-.")[place // len(_MARKERS) % 4],
            zorder=3 if own else 2,
            label=name,
        )
    axes.set_xscale("log")
    ticks = [1, 1.5, 2, 3, 4.5, 6, 8]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("measured speed-up of the pipeline call")
    axes.set_ylabel("mean PSNR against the reference (dB)")
    axes.set_title(f"{images} images, {steps} steps, batch 1", fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
