"""Counters of a cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CacheStats:
    """What a cache did since it was made; read it at any time.

    Attributes:
        hits: Reads that found their entry.
        misses: Reads that did not.
        puts: Entries stored.
        rejected: Entries that no tier had room for.
        peak_bytes: Most bytes held at one time.
    """

    hits: int = 0
    misses: int = 0
    puts: int = 0
    rejected: int = 0
    peak_bytes: int = 0
