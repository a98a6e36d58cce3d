"""Ratings in a file of SQLite: several tabs may write at once, and a reload loses none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.mos.sets import LEVELS

#: Characters of a rater's name.
_MOST_NAME = 64
#: For another process that is writing.
_PATIENCE_S = 10.0
_TABLE = f"""
CREATE TABLE IF NOT EXISTS ratings (
    rater TEXT NOT NULL,
    page TEXT NOT NULL,
    score INTEGER NOT NULL CHECK (score BETWEEN {min(LEVELS)} AND {max(LEVELS)}),
    rated_at TEXT NOT NULL,
    PRIMARY KEY (rater, page)
)
"""


class Rating(NamedTuple):
    """What a rater said of a page."""

    rater: str
    page: str
    score: int


class Ratings:
    """The ratings of a set; safe to be used from any thread.

    Args:
        path: Of the file, which is made if it is not there.

    Raises:
        ArtifactError: If it is damaged, or no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as connection:
            connection.execute(_TABLE)
            connection.execute("SELECT rater, page, score FROM ratings LIMIT 1")

    @classmethod
    def of(cls, folder: Path) -> Ratings:
        """Open the ratings of a set."""
        return cls(folder / "ratings.sqlite")

    def rate(self, rater: str, page: str, score: int) -> bool:
        """Keep a rating; the first of a rater for a page stands.

        Returns:
            Whether this was it.

        Raises:
            ConfigError: If the score is none of the scale, or the name is empty or too long.
        """
        check_rater(rater)
        if score not in LEVELS:
            raise ConfigError(f"score must be among {sorted(LEVELS)}, received {score!r}")
        with self._open() as connection:
            done = connection.execute(
                "INSERT OR IGNORE INTO ratings VALUES (?, ?, ?, ?)",
                (rater, page, score, datetime.now(UTC).isoformat(timespec="seconds")),
            )
            return done.rowcount == 1

    def pages_of(self, rater: str) -> set[str]:
        """Name the pages that a rater has rated."""
        with self._open() as connection:
            found = connection.execute("SELECT page FROM ratings WHERE rater = ?", (rater,))
            return {page for (page,) in found}

    def every(self) -> list[Rating]:
        """Return all ratings, by rater and time."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT rater, page, score FROM ratings ORDER BY rater, rated_at, page"
            )
            return [Rating(*line) for line in found]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Connect for one transaction: connections belong to threads, and a page has many."""
        try:
            connection = sqlite3.connect(self._path, timeout=_PATIENCE_S)
            try:
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise ArtifactError(
                f"{self._path}: expected ratings, received: {error}; restore a copy of the file, "
                "or move it away to begin anew"
            ) from error


def check_rater(name: str) -> None:
    """Refuse a name that is none.

    Raises:
        ConfigError: If it is empty, too long, or not to be printed.
    """
    if not 1 <= len(name.strip()) <= _MOST_NAME or not name.isprintable():
        raise ConfigError(
            f"expected a name of 1 to {_MOST_NAME} characters, received {name[:_MOST_NAME]!r}"
        )
