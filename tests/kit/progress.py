"""Progress that tells a test what it heard."""

from __future__ import annotations

from ditcache_rl.types import Progress


class Heard(Progress):
    """Keeps everything."""

    def __init__(self) -> None:
        self.doing: list[str] = []
        self.notes: list[str] = []
        self.done = self.total = 0.0

    def say(self, text: str) -> None:
        self.doing.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def expect(self, total: float) -> None:
        self.total = total

    def advance(self, count: float) -> None:
        self.done += count

    def reach(self, count: float) -> None:
        self.done = count
