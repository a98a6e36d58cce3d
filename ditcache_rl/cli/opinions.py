"""Lay out what raters said. Heavy to import: commands do so when they run."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from ditcache_rl.mos import OpinionReport


def render_opinions(report: OpinionReport) -> Table:
    """Lay scores out for the terminal: a line per method and setting."""
    table = Table(title="mean opinion score, 5 is best")
    for title in ("method", "setting"):
        table.add_column(title)
    for title in ("speed-up", "MOS", "95 % interval", "raters", "images"):
        table.add_column(title, justify="right")
    for line in report["scores"]:
        ends = line["ci95"]
        table.add_row(
            line["method"],
            line["target"],
            f"{line['speedup']:.2f}",
            f"{line['mos']:.2f}",
            "-" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}",
            str(line["raters"]),
            str(line["images"]),
        )
    return table


def render_raters(report: OpinionReport) -> Table:
    """Lay the screening out for the terminal: a line per rater."""
    table = Table(title="raters")
    table.add_column("rater")
    table.add_column("bias", justify="right")
    table.add_column("heard")
    for line in report["raters"]:
        bias = "-" if line["bias"] is None else f"{line['bias']:+.2f}"
        table.add_row(
            escape(line["rater"]), bias, "yes" if line["heard"] else "; ".join(line["reasons"])
        )
    return table
