"""The pipelines that were examined; the table is written by `benchmarks/coverage.py --docs`."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDE = 200  # characters: the longest row


def supported_pipelines() -> list[dict[str, Any]]:
    """Return a row per denoiser: its pipelines, stacks, entries, branches, and if checks pass."""
    text = resources.files("ditcache_rl.pipelines").joinpath("pipelines.json").read_text("utf-8")
    rows: list[dict[str, Any]] = json.loads(text)
    return rows


def print_pipelines() -> None:
    """Print the table."""
    table = Table("denoiser", "pipelines", "block stacks", "entries", "branches", "tested")
    for row in supported_pipelines():
        table.add_row(
            row["denoiser"],
            "\n".join(row["pipelines"]),
            row["stacks"],
            str(row["spans"]),
            str(row["branches"]),
            "all checks" if row["tested"] else "fails some",
        )
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(width=_WIDE)
    console.print(table)
    console.print("Others are looked at when they are attached: see docs/pipelines.md.")
