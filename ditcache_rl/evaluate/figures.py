"""Draw measurements: quality against speed-up, images beside their reference, sensitivities.

matplotlib comes with the `train` extra and is imported here only when something is drawn.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from ditcache_rl.errors import StateError
from ditcache_rl.evaluate.curves import Curve, draw_curves, new_figure, save_figure
from ditcache_rl.evaluate.methods import OURS
from ditcache_rl.evaluate.report import Report, ReportLine
from ditcache_rl.evaluate.results import Picture, Results
from ditcache_rl.evaluate.run import KEPT_PROMPTS
from ditcache_rl.evaluate.tables import place_of
from ditcache_rl.sensitivity import Grade, SensitivityMap

#: Speed-ups at which the picture grid shows the policy, as near as there are settings.
SHOWN_SPEEDUPS = (2.0, 3.0)
#: How much stronger differences are drawn than they are, so that 1 / 64 becomes visible.
AMPLIFIED = 8
_PROMPT_WIDTH = 100  # characters that fit above a line of the grid


def plot_frontier(report: Report, path: Path) -> None:
    """Draw mean PSNR against measured speed-up, one line per method, into a PNG file.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    groups: dict[tuple[str, str], list[ReportLine]] = {}
    for line in sorted(report["rows"], key=place_of):
        known = line["speedup"] is not None and line["psnr_db"]["mean"] is not None
        if known and line["family"] != "reference":
            groups.setdefault((line["family"], line["method"]), []).append(line)
    curves = [
        Curve(
            f"{name} ({family})" if family in OURS and name != family else name,
            family,
            [line["speedup"] or 0.0 for line in lines],
            [line["psnr_db"]["mean"] or 0.0 for line in lines],
        )
        for (family, name), lines in groups.items()
    ]
    images, steps = report["rows"][0]["n"], report["num_inference_steps"]
    draw_curves(curves, path, title=f"{images} images, {steps} steps")


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
    figure = new_figure(1.9 * columns, 2.25 * len(references) + 0.4)
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
    save_figure(figure, path)


def plot_sensitivity(found: SensitivityMap, path: Path) -> None:
    """Draw a heat map of sites and steps per measure, in ranks of ten, into a PNG file.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    figure = new_figure(8.0, 1.2 + 2.4 * len(found.measures))
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
    save_figure(figure, path)


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
