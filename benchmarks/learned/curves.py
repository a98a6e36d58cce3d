"""What ablated trainings gained: figures, a table, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.harness.seeds import iqm, stratified
from benchmarks.learned.ablated import COMPUTES, VARIANTS, Training


def summary(
    found: Mapping[str, Sequence[Training]], rng: np.random.Generator
) -> tuple[dict[str, float], dict[str, Any]]:
    """Make figures of the trainings, and what explains them."""
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    for name, trainings in found.items():
        table = np.array([training.gain_db for training in trainings])
        over = stratified(table, iqm, rng)
        figures |= {
            f"{name}_gain_db": over["value"],
            f"{name}_gain_low_db": over["low"],
            f"{name}_gain_high_db": over["high"],
        }
        for computes, gains in zip(COMPUTES, table.T, strict=True):
            figures[f"{name}_gain_db_{percent(computes)}"] = float(gains.mean())
        details[name] = {
            "gain_db": table.tolist(),
            "curve_db": [training.curve_db for training in trainings],
        }
    return figures, details


def percent(computes: int) -> int:
    """Return a share of full compute as the figures name it."""
    return round(100 * computes / 12)


def sheet_of(figures: Mapping[str, float]) -> Table:
    """Lay out what every variant gained, with its interval."""
    built = Table(title="gain over even steps with reuse between, dB")
    for column in ("variant", *(f"{computes} of 12" for computes in COMPUTES), "IQM", "95 %"):
        built.add_column(column, justify="right")
    for name in VARIANTS:
        built.add_row(
            name,
            *(f"{figures[f'{name}_gain_db_{percent(n)}']:+.2f}" for n in COMPUTES),
            f"{figures[f'{name}_gain_db']:+.2f}",
            f"{figures[f'{name}_gain_low_db']:+.2f} .. {figures[f'{name}_gain_high_db']:+.2f}",
        )
    return built


def draw(details: Mapping[str, Any], episodes: int, path: Path) -> None:
    """Draw what the episodes gained while each variant learned, mean over seeds, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for place, (name, entry) in enumerate(details.items()):
        curve = np.array(entry["curve_db"]).mean(axis=0)
        played = (np.arange(len(curve)) + 1) * episodes / len(curve)
        style = ("-", "--", ":")[place % 3]
        axes.plot(played, curve, style, linewidth=1.2 if place else 2.6, label=name)
    axes.set_xlabel("episodes")
    axes.set_ylabel("gain of explored episodes over the schedules (dB)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
