"""What every benchmark stands on: its options, its clock, its table and file, its statistics."""

from benchmarks.harness.kept import KeptParts, facts_of
from benchmarks.harness.report import ROOT, Benchmark, Lines, console, parser, writable

__all__ = ["ROOT", "Benchmark", "KeptParts", "Lines", "console", "facts_of", "parser", "writable"]
