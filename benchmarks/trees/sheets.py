"""What a table told, as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table as Sheet

from benchmarks.harness import Lines, console
from benchmarks.trees.table import STEPS, Table
from benchmarks.trees.yardstick import COMPUTES


def show(details: dict[str, Any], first: Table) -> None:
    """Print the tables."""
    for kind, found in details["tables"].items():
        console.print(_static_sheet(kind, found))
        console.print(_search_sheet(kind, found["searches"]))
        console.print(_predictor_sheet(kind, found["predictors"]))
    console.print(_contender_sheet(first.kind, details["contenders"]))


def _sheet(title: str, *columns: str) -> Sheet:
    sheet = Sheet(title=title)
    for column in columns:
        sheet.add_column(column, justify="right")
    return sheet


def _static_sheet(kind: str, found: dict[str, Any]) -> Sheet:
    columns = ("computed", "static", "oracle", "headroom dB", "95 %", "p95", "within .5 dB")
    sheet = _sheet(f"{kind}: every schedule, prompts {found['prompts']}", *columns)
    for line in found["static"]:
        sheet.add_row(
            f"{line['budget']} of {STEPS}",
            f"{line['static_db']:.2f}",
            f"{line['oracle_db']:.2f}",
            f"{line['headroom_db']:.2f}",
            "{:.2f} .. {:.2f}".format(*line["ci95"]),
            f"{line['headroom_p95_db']:.2f}",
            f"{line['within_half_db_share']:.0%}",
        )
    return sheet


def _search_sheet(kind: str, lines: Lines) -> Sheet:
    title = f"{kind}: dB of searches against the best static schedule, held out"
    sheet = _sheet(title, "method", "candidates", *(f"{n} of {STEPS}" for n in COMPUTES))
    cells: dict[tuple[str, int], list[str]] = {}
    for line in lines:
        key = line["method"], line["evaluations"]
        cells.setdefault(key, []).append(f"{line['held_out_minus_static_db']:+.2f}")
    for (name, count), shown in cells.items():
        sheet.add_row(name, str(count), *shown)
    return sheet


def _predictor_sheet(kind: str, predictors: dict[str, Lines]) -> Sheet:
    columns = ("computed", "feature", "step", "rho choose", "rho held out", "AUC")
    sheet = _sheet(f"{kind}: what tells that a prompt has a better schedule", *columns)
    for computes, ranked in predictors.items():
        for one in ranked[:3]:
            sheet.add_row(
                computes,
                one["feature"],
                str(one["step"]),
                f"{one['spearman_choose']:+.2f}",
                f"{one['spearman_held_out']:+.2f}",
                f"{one['auc_held_out']:.2f}",
            )
    return sheet


def _contender_sheet(kind: str, lines: Lines) -> Sheet:
    columns = ("method", "budget", "computed", "PSNR dB", "minus static", "95 %", "share")
    sheet = _sheet(f"contenders against the best static {kind} schedule, held out", *columns)
    for line in lines:
        sheet.add_row(
            line["method"],
            str(line["budget"]),
            f"{line['computes']:.2f}",
            f"{line['psnr_db']:.2f}",
            f"{line['minus_static_db']:+.2f}",
            "{:+.2f} .. {:+.2f}".format(*line["ci95"]),
            "-" if line["headroom_share"] is None else f"{line['headroom_share']:+.2f}",
        )
    return sheet
