"""What rules and agents reached, as figures and as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from benchmarks.harness.seeds import iqm, stratified
from benchmarks.traces.agents import DEVICE_SHARES, STARTS
from benchmarks.traces.requests import CallPrices, Tally


def figures_of(
    found: dict[str, list[list[Tally]]], prices: CallPrices, tests: int
) -> dict[str, float]:
    """Summarise who found what: tallies by name, seed and size of the device."""
    rng = np.random.default_rng(0)
    figures: dict[str, float] = {}
    for column, share in enumerate(DEVICE_SHARES):
        size = round(100 * share)
        hits = {n: np.array([s[column].hit_share for s in seeds]) for n, seeds in found.items()}
        usual = float(hits["default"][0])
        headroom = float(hits["belady"][0]) - usual
        figures[f"headroom_share_{size}"] = headroom
        for name, seeds in found.items():
            tallies = [s[column] for s in seeds]
            figures[f"{name}_hit_share_{size}"] = iqm(hits[name])
            taken = (hits[name] - usual) / headroom
            figures[f"{name}_of_headroom_share_{size}"] = iqm(taken)
            if name in STARTS:
                interval = stratified(taken[:, None], iqm, rng)
                figures[f"{name}_of_headroom_share_low_{size}"] = interval["low"]
                figures[f"{name}_of_headroom_share_high_{size}"] = interval["high"]
            loads = iqm(np.array([t.loads for t in tallies]) / tests)
            figures[f"{name}_loads_count_{size}"] = loads
            seconds = iqm(np.array([t.seconds(prices) for t in tallies]) / tests)
            figures[f"{name}_request_{size}_s"] = seconds
    return figures


def table_of(figures: dict[str, float], names: Sequence[str]) -> Table:
    """Lay out the contenders, best first."""
    built = Table(
        title="reads served by the device, and share of the headroom", title_justify="left"
    )
    built.add_column("who places")
    sizes = [round(100 * share) for share in DEVICE_SHARES]
    for size in sizes:
        for head in (f"at {size} %", "of headroom", "time"):
            built.add_column(head, justify="right")
    for name in sorted(names, key=lambda n: -figures[f"{n}_hit_share_{sizes[-1]}"]):
        cells = []
        for size in sizes:
            taken = f"{100 * figures[f'{name}_of_headroom_share_{size}']:.0f} %"
            if name in STARTS:
                low, high = (
                    100 * figures[f"{name}_of_headroom_share_{end}_{size}"]
                    for end in ("low", "high")
                )
                taken = f"{taken} [{low:.0f}, {high:.0f}]"
            cells += [
                f"{100 * figures[f'{name}_hit_share_{size}']:.2f} %",
                taken,
                f"{1e3 * figures[f'{name}_request_{size}_s']:.1f} ms",
            ]
        built.add_row(name, *cells)
    return built
