"""Show the frontier in the terminal, and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.race.frontiers import FrontierLine, curves, foremost
from ditcache_rl.evaluate.curves import Curve, draw_curves
from ditcache_rl.evaluate.methods import OURS


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


def write_pngs(path: Path, lines: Sequence[FrontierLine], images: int, steps: int) -> list[Path]:
    """Draw mean PSNR against measured speed-up into PNG files: the few that count, and all.

    Returns:
        The files: as it was named, and beside it with `-all`.
    """
    every = curves(lines)
    files = {path: foremost(every), path.with_stem(f"{path.stem}-all"): list(every)}
    for file, names in files.items():
        drawn = [
            Curve(
                name,
                every[name][0]["family"],
                [line["speedup"] or 1.0 for line in every[name]],
                [(line["psnr_db"] or {})["mean"] for line in every[name]],
            )
            for name in names
        ]
        draw_curves(drawn, file, title=f"{images} images, {steps} steps, batch 1")
    return list(files)
