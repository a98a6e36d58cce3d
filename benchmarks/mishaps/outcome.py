"""What every case takes and returns, and the tensors that it puts and compares.

A case is called as `case(amount, folder, beat)`. It counts what went wrong under the names of the
figures and goes on, calls `beat` at least every few seconds, and never asserts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Beat = Callable[[], None]

MISMATCH = "model_mismatch_count"
KILL_CORRUPT = "kill_corrupt_count"
LEAKED = "kill_leaked_count"
BITFLIP = "bitflip_missed_count"
SWAP = "swap_missed_count"
WRONG = "io_fault_wrong_count"
HANG = "hang_count"
CRASH = "crash_count"
STALE = "stale_read_count"
COUNTS = (MISMATCH, KILL_CORRUPT, LEAKED, BITFLIP, SWAP, WRONG, HANG, CRASH, STALE)

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float64, torch.bool)


class CaseOutcome(NamedTuple):
    """What a case found."""

    counts: Counter[str]
    """By figure; what is not there is 0."""
    details: dict[str, object]
    """How much was tried, and the first things that went wrong."""


Mishap = Callable[[int, Path, Beat], CaseOutcome]


class Findings:
    """Counts what goes wrong, and keeps the first few descriptions."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []

    def add(self, figure: str, note: str, count: int = 1) -> None:
        """Count something that went wrong."""
        self.counts[figure] += count
        if count and len(self.notes) < 5:
            self.notes.append(f"{figure}: {note}")

    def expect(self, holds: bool, figure: str, note: str) -> None:
        """Count it unless it holds."""
        if not holds:
            self.add(figure, note)

    def outcome(self, **details: object) -> CaseOutcome:
        """Hand over what was found."""
        found: dict[str, object] = {"wrong": self.notes} if self.notes else {}
        return CaseOutcome(self.counts, {**details, **found})


def no_beat() -> None:
    """Nobody watches."""


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Return the same random tensor for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    return (40 * torch.randn(shape, generator=generator)).to(dtype)


def same_bits(found: Tensor, expected: Tensor) -> bool:
    """Compare dtype, shape and every bit."""
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and torch.equal(
            found.detach().contiguous().view(-1).view(torch.uint8),
            expected.detach().contiguous().view(-1).view(torch.uint8),
        )
    )
