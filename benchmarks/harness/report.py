"""What the benchmarks share: their options, the machine they ran on, their table and their file.

A script asks `parser` for its options, starts a `Benchmark`, measures, and hands its figures to
`Benchmark.finish`. Nothing here measures a model or imports one.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ditcache_rl.errors import ConfigError
from ditcache_rl.files import check_writable, write_json
from ditcache_rl.machine import machine_facts, version_facts

Lines = list[dict[str, Any]]
"""Lines of a table, by column, as JSON takes them."""

ROOT = Path(__file__).resolve().parents[2]
console = Console()

_GIB = 2**30


def parser(description: str | None, *, quick: str | None = None) -> argparse.ArgumentParser:
    """Build the options that every benchmark has; the caller may add its own.

    Args:
        description: The docstring of the script.
        quick: What a short run does less of; without it there is no `--quick`.
    """
    built = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    built.add_argument(
        "--json", type=writable, metavar="FILE", help="write the result to this file"
    )
    if quick is not None:
        built.add_argument("--quick", action="store_true", help=f"short run: {quick}")
    return built


def writable(text: str) -> Path:
    """Take an option that names a file to write; refused now, not when all is measured."""
    try:
        check_writable(Path(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


class Benchmark:
    """A benchmark under way: its clock starts when it is made."""

    def __init__(self, arguments: list[str] | None = None) -> None:
        """Note the command line and the load before anything is measured.

        Args:
            arguments: Command line without the script's name; that of the process by default.
        """
        self._start = time.perf_counter()
        self._machine = machine()
        given = sys.argv[1:] if arguments is None else arguments
        self._command = shlex.join(["python", _script(Path(sys.argv[0])), *given])

    def finish(
        self,
        figures: Mapping[str, float],
        details: object,
        file: Path | None,
        *,
        title: str | None = None,
    ) -> None:
        """Print the figures, and write everything where a file is given.

        Args:
            figures: Numbers by name; names end in their unit. None may be infinite or NaN.
            details: Whatever explains them, as JSON takes it.
            file: Where to write; folders above it are made.
            title: Of the table.
        """
        seconds = time.perf_counter() - self._start
        console.print(table(figures, title=title))
        console.print(f"{seconds:.0f} s in all on {self._machine['cpu']}")
        if file is None:
            return
        result = {
            "machine": self._machine,
            "versions": versions(),
            "command": self._command,
            "seconds": round(seconds, 1),
            "figures": dict(figures),
            "details": details,
        }
        write_json(file, result)


def _script(file: Path) -> str:
    """Name a script of this folder as it is called from the root of the project."""
    inside = file.resolve()
    return str(inside.relative_to(ROOT)) if ROOT in inside.parents else f"benchmarks/{file.name}"


def machine() -> dict[str, str | int | float | None]:
    """Describe what the timings depend on; `load` is what else was running."""
    # Runnable processes over the last minute: more than 0 at the start means a shared machine.
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {**machine_facts(), "load": load}


def versions() -> dict[str, str | None]:
    """List what the figures depend on, with the commit where there is one."""
    found = version_facts()
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return found
    return found | {"commit": done.stdout.strip()}


def table(figures: Mapping[str, float], *, title: str | None = None) -> Table:
    """Lay the figures out, each in the unit that its name ends in."""
    built = Table(title=title, title_justify="left")
    built.add_column("figure")
    built.add_column("value", justify="right")
    for name, value in figures.items():
        built.add_row(name, _with_unit(name, value))
    return built


def _with_unit(name: str, value: float) -> str:
    words = name.split("_")
    if "share" in words:
        return f"{100 * value:.2f} %"
    if "db" in words:
        return f"{value:.2f} dB"
    if "bytes" in words:
        return _bytes(value)
    if "count" in words:
        return f"{value:.0f}"
    if words[-1] == "s":
        return _seconds(value)
    return f"{value:.3f} x" if "x" in words else f"{value:.4g}"


def _seconds(value: float) -> str:
    scales = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    scale, unit = next((pair for pair in scales if abs(value) >= pair[0]), scales[-1])
    return f"{value / scale:.3g} {unit}"


def _bytes(value: float) -> str:
    scales = ((_GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
    for scale, unit in scales:
        if abs(value) >= scale:
            return f"{value / scale:.2f} {unit}"
    return f"{value:.0f} B"
