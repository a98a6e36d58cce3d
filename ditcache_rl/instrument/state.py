"""What a request remembers of one span on one branch."""

from __future__ import annotations

from typing import Any

from ditcache_rl.instrument.history import SiteHistory

#: A branch, and a span numbered over all denoisers: they name the cache entries of a request.
SpanKey = tuple[int, int]


class SpanState:
    """What a request knows of one span on one branch.

    Attributes:
        key: Names both.
        history: Its residuals.
        shapes: Of the streams at the entrance; with others the history is worthless.
        exits: How the end is made of an entry: see `exits.Exit`; empty before the first.
        forms: Placeholders for the outputs of the blocks of a deep branch.
        pure: Nothing happens to the streams between the blocks.
    """

    __slots__ = ("exits", "forms", "history", "key", "pure", "shapes")

    def __init__(self, key: SpanKey, history: SiteHistory, shapes: tuple[Any, ...]) -> None:
        self.key = key
        self.history = history
        self.shapes = shapes
        self.exits: tuple[Any, ...] = ()
        self.forms: dict[Any, Any] = {}
        self.pure = True
