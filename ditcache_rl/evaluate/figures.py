"""Draw measurements: quality against speed-up, images beside their reference, sensitivities.

matplotlib comes with the `train` extra and is imported here only when something is drawn.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.errors import StateError
from ditcache_rl.evaluate.methods import Family, Method
from ditcache_rl.evaluate.results import Picture, Results
from ditcache_rl.evaluate.run import KEPT_PROMPTS
from ditcache_rl.machine import require
from ditcache_rl.sensitivity import Grade, SensitivityMap

#: Speed-ups at which the picture grid shows the policy, as near as there are settings.
SHOWN_SPEEDUPS = (2.0, 3.0)
#: How much stronger differences are drawn than they are, so that 1 / 64 becomes visible.
AMPLIFIED = 8
#: Colours that differ in lightness too; what is ours has its own, drawn thick.
_BASELINE_COLORS = ("#7f7f7f", "#8da0cb", "#d9a441", "#66a182", "#b07aa1", "#9c755f", "#5f8fb4")
_OWN_COLORS: dict[Family, str] = {"learned": "#c8102e", "static": "#1f3f94"}
_MARKERS = "osD^vP*X"
_PROMPT_WIDTH = 100  # characters that fit above a line of the grid


def plot_frontier(results: Results, path: Path) -> None:
    """Draw mean PSNR against measured speed-up, one line per method, into a PNG file.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    figure = _figure(8.0, 5.0)
    axes = figure.subplots()
    lines = _lines(results)
    for place, (method, indices) in enumerate(lines):
        speedups = results.speedup[indices]
        order = np.argsort(speedups)
        own = method.family in _OWN_COLORS
        axes.plot(
            speedups[order],
            results.psnr_db.mean(axis=1)[indices][order],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=7 if own else 4,
            linewidth=2.8 if own else 1.2,
            color=_OWN_COLORS.get(method.family, _BASELINE_COLORS[place % len(_BASELINE_COLORS)]),
            zorder=3 if own else 2,
            label=method.name if method.name == method.family else _legend(method),
        )
    axes.set_xlabel("measured speed-up of the pipeline call (reference = 1)")
    axes.set_ylabel("mean PSNR against the reference (dB)")
    axes.set_title(f"{results.seconds.shape[1]} images, {results.num_inference_steps} steps")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def plot_grid(results: Results, path: Path) -> None:
    """Draw references, a policy at two speed-ups and amplified differences into a PNG file.

    Shown are the learned methods, static ones where there are none, else whatever was measured.

    Raises:
        ConfigError: If matplotlib is not installed.
        StateError: If the results hold no images besides the reference's.
    """
    shown = _shown_methods(results)
    references = results.pictures[0][:KEPT_PROMPTS]
    columns = 1 + 2 * len(shown)
    figure = _figure(1.9 * columns, 2.25 * len(references) + 0.4)
    grid = figure.subplots(len(references), columns, squeeze=False)
    for line, (reference, prompt) in enumerate(zip(references, results.prompts, strict=False)):
        cells: list[tuple[Picture, str, str]] = [(reference, "", "reference")]
        for index in shown:
            image = results.pictures[index][line]
            psnr = results.psnr_db[index, line]
            title = f"{results.methods[index].label}\nmeasured {results.speedup[index]:.2f}x"
            cells.append((image, f"{psnr:.1f} dB", title))
            cells.append((_difference(image, reference), "", f"difference x {AMPLIFIED}"))
        for axes, (image, caption, title) in zip(grid[line], cells, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(caption, fontsize=9)
            if line == 0:
                axes.set_title(title, fontsize=9, pad=20)
        text = textwrap.shorten(prompt, _PROMPT_WIDTH, placeholder=" ...")
        # Outside of the layout, so that a long prompt runs over its line instead of widening a
        # column.
        note = grid[line][0].annotate(
            text, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=9
        )
        note.set_in_layout(False)
    _save(figure, path)


def plot_sensitivity(found: SensitivityMap, path: Path) -> None:
    """Draw a heat map of sites and steps per measure, in ranks of ten, into a PNG file.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    figure = _figure(8.0, 1.2 + 2.4 * len(found.measures))
    panels = figure.subplots(len(found.measures), squeeze=False)[:, 0]
    labels = [
        f"{name} {Grade(int(grade)).name.lower()}"
        for name, grade in zip(found.names, found.grades(), strict=True)
    ]
    for axes, (name, table) in zip(panels, found.measures.items(), strict=True):
        shown = np.log10(np.where(table > 0, table, np.nan)).T
        drawn = axes.imshow(shown, aspect="auto", interpolation="nearest", cmap="viridis")
        figure.colorbar(drawn, ax=axes, label="log10")
        axes.set_title(f"{name}, {found.prompts[name]} prompts", fontsize=9)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        axes.set_ylabel("site and grade")
    panels[-1].set_xlabel("denoising step")
    _save(figure, path)


def _lines(results: Results) -> list[tuple[Method, list[int]]]:
    """Group the settings of each method, without the reference: (first of them, indices)."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, method in enumerate(results.methods):
        if method.family != "reference":
            groups.setdefault((method.family, method.name), []).append(index)
    return [(results.methods[indices[0]], indices) for indices in groups.values()]


def _legend(method: Method) -> str:
    return f"{method.name} ({method.family})" if method.family in _OWN_COLORS else method.name


def _shown_methods(results: Results) -> list[int]:
    """Choose the settings nearest to the speed-ups to show."""
    candidates: list[int] = []
    for families in (("learned",), ("static",), ("fewer-steps", "heuristic", "peer")):
        candidates = candidates or [
            index for index in results.pictures if results.methods[index].family in families
        ]
    if not candidates:
        raise StateError(
            "expected results with images of at least one method, received none besides the "
            "reference; evaluate a policy before drawing its images"
        )
    speedup = results.speedup
    nearest = [min(candidates, key=lambda i: abs(speedup[i] - wanted)) for wanted in SHOWN_SPEEDUPS]
    return list(dict.fromkeys(nearest))


def _difference(image: Picture, reference: Picture) -> Picture:
    distance = np.abs(image.astype(np.int64) - reference.astype(np.int64)) * AMPLIFIED
    return distance.clip(0, 255).astype(np.uint8)


def _figure(width: float, height: float) -> Any:
    """Make a figure that belongs to no window and to no global list."""
    require("train", "matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
