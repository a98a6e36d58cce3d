"""What every benchmark stands on: its options, its clock, its table and file, its statistics."""

from benchmarks.harness.kept import Kept
from benchmarks.harness.report import ROOT, Benchmark, Lines, console, parser, writable

__all__ = ["ROOT", "Benchmark", "Kept", "Lines", "console", "parser", "writable"]
