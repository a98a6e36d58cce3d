"""Lay a report out for the terminal."""

from __future__ import annotations

from rich.table import Table

from ditcache_rl.evaluate.methods import FAMILIES
from ditcache_rl.evaluate.report import DeadlineLine, Number, Report, ReportLine

#: What is shown of a method under a setting, everywhere.
TITLES = ("method", "setting", "computed", "s / image", "speed-up", "PSNR dB", "p5", "SSIM")
#: What is shown of a method under a deadline, everywhere.
DEADLINE_TITLES = ("method", "deadline", "in time", "PSNR dB", "p5", "late as 0", "median s")
_STYLES: dict[str, str] = {"learned": "bold green", "static": "cyan", "reference": "bold"}


def render_table(report: Report) -> Table:
    """Lay a report out for the terminal, one line per method and setting."""
    images = report["rows"][0]["n"]
    table = Table(title=f"{report['env']}: {images} images, PSNR and SSIM against the reference")
    with_lpips = report["rows"][0]["lpips"] is not None
    for title in [*TITLES, "LPIPS"] if with_lpips else TITLES:
        table.add_column(title, justify="left" if title in TITLES[:2] else "right")
    previous = ""
    for line in sorted(report["rows"], key=place_of):
        if previous and line["family"] != previous:
            table.add_section()
        previous = line["family"]
        lpips = [shown(line["lpips"]["mean"], ".3f")] if line["lpips"] is not None else []
        table.add_row(*cells(line), *lpips, style=_STYLES.get(line["family"]))
    if report["notes"]:
        table.caption = "\n".join(report["notes"])
    return table


def cells(line: ReportLine) -> tuple[str, ...]:
    """Write what was measured under `TITLES`."""
    return (
        line["method"],
        line["target"],
        shown(line["compute_share"], ".0%"),
        shown(line["seconds_per_image"], ".3f"),
        shown(line["speedup"], ".2f"),
        shown(line["psnr_db"]["mean"], ".2f"),
        shown(line["psnr_db"]["p5"], ".2f"),
        shown(line["ssim"]["mean"], ".4f"),
    )


def render_deadlines(report: Report) -> Table:
    """Lay what was measured under deadlines out for the terminal, one line per method and deadline.

    PSNR is of the images in time.
    """
    table = Table(title="by the clock: PSNR of the images in time")
    for title in DEADLINE_TITLES:
        table.add_column(title, justify="left" if title == "method" else "right")
    for line in report["deadlines"]:
        table.add_row(*deadline_cells(line))
    return table


def deadline_cells(line: DeadlineLine) -> tuple[str, ...]:
    """Write what was measured under `DEADLINE_TITLES`."""
    psnr = line["psnr_db"]
    return (
        line["method"],
        f"{line['deadline_s']:g} s",
        f"{line['kept_share']:.0%}",
        shown(psnr and psnr["mean"], ".2f"),
        shown(psnr and psnr["p5"], ".2f"),
        shown(line["late_as_zero_db"], ".2f"),
        shown(line["seconds_per_image"], ".3f"),
    )


def place_of(line: ReportLine) -> tuple[int, str, float]:
    """Return where a line stands among others: by family, method and speed-up."""
    family = [str(name) for name in FAMILIES].index(line["family"])
    return family, line["method"], line["speedup"] or 0.0


def shown(value: Number, form: str) -> str:
    """Write a number, and a dash for what could not be measured."""
    return "-" if value is None else format(value, form)
