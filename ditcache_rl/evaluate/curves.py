"""Draw quality against measured speed-up, every line labelled where it runs.

matplotlib comes with the `train` extra and is imported here only when something is drawn.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ditcache_rl.evaluate.drawings import COLORS, SPEEDUP_TICKS
from ditcache_rl.evaluate.methods import OURS
from ditcache_rl.machine import require
from ditcache_rl.types import Floats

#: More lines than these have no room for their names beside them, and get a legend.
MOST_LABELLED = 10
#: Lines of a column of the legend.
_LEGEND_ROWS = 30
_MARKERS, _DASHES = "osD^vP*X", ("-", "--", ":", "-.")
#: Shares of black that tell lines of a family, and their labels, apart.
_SHADES = (0.0, 0.45, 0.7)
#: Of a line, between two of its points: what a label must not cover lies denser than letters.
_SAMPLES = 40
#: Ways from a point of a line to the middle of its label, and how far its box is from the point.
_WAYS = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)], float)
_GAPS_PX = (6.0, 16.0, 34.0)
#: Pixels around a label that are its own.
_PAD_PX = 3.0


class Curve(NamedTuple):
    """A method at its settings, by rising speed-up."""

    name: str
    family: str
    speedups: Sequence[float]
    psnr_db: Sequence[float]


def draw_curves(curves: Sequence[Curve], path: Path, *, title: str) -> None:
    """Draw mean PSNR against measured speed-up into a PNG file, a line per method.

    Up to `MOST_LABELLED` lines carry their names; more are told apart by a legend.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    labelled = len(curves) <= MOST_LABELLED
    columns = math.ceil(len(curves) / _LEGEND_ROWS)
    figure = new_figure(8.0, 5.0) if labelled else new_figure(7.0 + 2.0 * columns, 5.6)
    axes = figure.subplots()
    colors = _colors(curves) if labelled else [COLORS[curve.family] for curve in curves]
    for place, (curve, color) in enumerate(zip(curves, colors, strict=True)):
        own = curve.family in OURS
        axes.plot(
            curve.speedups,
            curve.psnr_db,
            color=color,
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=(7 if own else 4.5) if labelled else (6 if own else 3.5),
            linewidth=(2.6 if own else 1.2) if labelled else (2.2 if own else 0.9),
            linestyle=_DASHES[place // len(_MARKERS) % len(_DASHES)],
            zorder=3 if own else 2,
            label=curve.name,
        )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in SPEEDUP_TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("measured speed-up of the pipeline call (reference = 1)")
    axes.set_ylabel("mean PSNR against the reference (dB)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if labelled:
        _label(figure, axes, curves, colors)
    else:
        axes.legend(
            frameon=False,
            fontsize=7,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            ncols=columns,
        )
    save_figure(figure, path)


def _colors(curves: Sequence[Curve]) -> list[str]:
    """Give every line of a family a shade of its own."""
    seen: Counter[str] = Counter()
    found = []
    for curve in curves:
        light = 1 - _SHADES[seen[curve.family] % len(_SHADES)]
        seen[curve.family] += 1
        parts = bytes.fromhex(COLORS[curve.family].removeprefix("#"))
        found.append("#" + bytes(round(part * light) for part in parts).hex())
    return found


def _label(figure: Any, axes: Any, curves: Sequence[Curve], colors: Sequence[str]) -> None:
    """Write the names at the lines."""
    texts = [
        axes.text(
            0,
            0,
            curve.name,
            transform=None,
            fontsize=9,
            ha="center",
            va="center",
            color=color,
            fontweight="bold" if curve.family in OURS else "normal",
            zorder=4,
        )
        for curve, color in zip(curves, colors, strict=True)
    ]
    for text in texts:
        text.set_in_layout(False)
    figure.draw_without_rendering()  # from here on it is known where everything is
    sizes = [(box.width, box.height) for box in (text.get_window_extent() for text in texts)]
    inside = np.array(axes.get_window_extent().extents)
    tracks = [
        np.asarray(axes.transData.transform(np.column_stack([one.speedups, one.psnr_db])))
        for one in curves
    ]
    for text, middle in zip(texts, place_labels(tracks, sizes, inside), strict=True):
        text.set_position(middle)


def place_labels(
    tracks: Sequence[Floats], sizes: Sequence[tuple[float, float]], inside: Floats
) -> list[tuple[float, float]]:
    """Find a place for every label beside its line, over no other line and no other label.

    Args:
        tracks: (points, 2) of each line, in pixels.
        sizes: Width and height of each label, in pixels.
        inside: (4,) left, bottom, right and top of what may be written in.

    Returns:
        Middles of the labels; where there is no free place, the least bad ones.
    """
    dense = [_dense(track) for track in tracks]
    taken: list[Floats] = []
    places: list[tuple[float, float]] = []
    for own, (track, size) in enumerate(zip(tracks, sizes, strict=True)):
        half = np.array(size) / 2 + _PAD_PX
        middles = np.concatenate(
            [track[:, None] + _WAYS * (half + gap) for gap in _GAPS_PX], axis=1
        ).reshape(-1, 2)
        boxes = np.concatenate([middles - half, middles + half], axis=1)
        covered, near = np.zeros(len(boxes)), np.full(len(boxes), np.inf)
        for other, points in enumerate(dense):
            apart = _apart(boxes, points)
            covered += (apart <= 0).sum(axis=1) * (1.0 if other != own else 0.5)
            if other != own:
                near = np.minimum(near, apart.min(axis=1))
        away = _apart(boxes, dense[own]).min(axis=1)
        outside = np.maximum(inside[:2] - boxes[:, :2], 0) + np.maximum(
            boxes[:, 2:] - inside[2:], 0
        )
        clashes = sum(_overlaps(boxes, one) for one in taken) if taken else 0.0
        # In this order: readable, nobody else's, at the line.
        worth = 1e6 * (outside.sum(axis=1) > 0) + 1e5 * clashes + 1e2 * covered
        best = int(np.argmin(worth + 10 * np.maximum(away + 4 - near, 0) + away))
        taken.append(boxes[best])
        places.append((float(middles[best, 0]), float(middles[best, 1])))
    return places


def _dense(track: Floats) -> Floats:
    """Fill the gaps between the points of a line: (points, 2)."""
    steps = np.linspace(0, 1, _SAMPLES, endpoint=False)[:, None]
    parts = [a + (b - a) * steps for a, b in itertools.pairwise(track)]
    return np.concatenate([*parts, track[-1:]])


def _apart(boxes: Floats, points: Floats) -> Floats:
    """Return how far points are from boxes, 0 inside: (boxes, points)."""
    over = np.maximum(boxes[:, None, :2] - points, points - boxes[:, None, 2:])
    return np.asarray(np.linalg.norm(np.maximum(over, 0), axis=2))


def _overlaps(boxes: Floats, one: Floats) -> Floats:
    return np.asarray(
        np.all((boxes[:, :2] < one[2:]) & (one[:2] < boxes[:, 2:]), axis=1), dtype=np.float64
    )


def new_figure(width: float, height: float) -> Any:
    """Make a figure, in inches, that belongs to no window and to no global list.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    require("train", "matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure into a PNG file; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
