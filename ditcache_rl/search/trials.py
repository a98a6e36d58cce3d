"""Score candidates on the final image, each once, and remember what came out.

A search is a function of its seed and of the scores that it sees. So a search that was interrupted
is run again from the start, and what was drawn before is read from a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import ArtifactError
from ditcache_rl.files import replacing
from ditcache_rl.search.space import Row, Space


class Weights(NamedTuple):
    """What counts: `psnr * PSNR / 10 + ssim * SSIM`, of means over the cases."""

    psnr: float = 1.0
    ssim: float = 1.0


class Score(NamedTuple):
    """Means over the cases."""

    psnr_db: float
    ssim: float


class Trials:
    """A board and its cases, and every candidate that was ever scored on them.

    Args:
        board: Where candidates are drawn.
        cases: What they are drawn on.
        weights: What counts.
        space: What candidates may be; by default everything that the board's steps and sites allow.
        file: Lines of candidates and scores; read if it is there, and added to.
        on_candidates: Hears how many candidates were asked for and not known to the search before.

    Raises:
        ArtifactError: If the file does not hold such lines.
    """

    def __init__(
        self,
        board: Board,
        cases: Sequence[Case],
        weights: Weights,
        *,
        space: Space | None = None,
        file: Path | None = None,
        on_candidates: Callable[[int], None] | None = None,
    ) -> None:
        self.board, self.cases, self.weights = board, cases, weights
        self.space = space or Space(board.steps, board.sites)
        #: Candidates that are drawn in one pipeline call.
        self.width = max(1, board.rows // len(cases))
        self._file, self._on_candidates = file, on_candidates
        self._known = _read(file, self.space.steps) if file is not None and file.exists() else {}

    def attempt(self, limit: int) -> Attempt:
        """Begin a search that may score so many different candidates."""
        return Attempt(self, limit)

    def look_up(self, rows: Sequence[Row]) -> list[Score]:
        """Return the scores of candidates; those that are not known are drawn."""
        missing = [row for row in _different(rows) if row.tobytes() not in self._known]
        for begin in range(0, len(missing), self.width):
            part = missing[begin : begin + self.width]
            schedules = [self.space.modes(row) for row in part for _ in self.cases]
            drawn = self.board.score(list(self.cases) * len(part), schedules)
            columns = [np.reshape(c, (len(part), -1)).mean(axis=1) for c in drawn]
            scores = [Score(float(p), float(s)) for p, s in zip(*columns, strict=True)]
            self._note(part, scores)
        if self._on_candidates is not None:
            self._on_candidates(len(rows))
        return [self._known[row.tobytes()] for row in rows]

    def value(self, score: Score) -> float:
        """Return what a score is worth."""
        return self.weights.psnr * score.psnr_db / 10 + self.weights.ssim * score.ssim

    def _note(self, rows: Sequence[Row], scores: Sequence[Score]) -> None:
        self._known.update((row.tobytes(), score) for row, score in zip(rows, scores, strict=True))
        if self._file is not None:
            lines = [
                json.dumps([row.tolist(), *score]) for row, score in zip(rows, scores, strict=True)
            ]
            with self._file.open("a", encoding="utf-8") as log:
                log.write("\n".join(lines) + "\n")


class Attempt:
    """One search: what it has seen, and how many candidates are left to it."""

    def __init__(self, trials: Trials, limit: int) -> None:
        self._trials = trials
        self._limit = limit
        self._seen: dict[bytes, tuple[Row, Score]] = {}

    @property
    def left(self) -> int:
        """Candidates that may still be scored."""
        return self._limit - len(self._seen)

    @property
    def spent(self) -> int:
        """Candidates that were scored."""
        return len(self._seen)

    @property
    def width(self) -> int:
        """Candidates that are best scored together."""
        return self._trials.width

    def score(self, rows: Iterable[Row]) -> list[Row]:
        """Score what is new, as far as the limit allows; returns the rows that are known now."""
        rows = list(rows)
        fresh = [row for row in _different(rows) if row.tobytes() not in self._seen]
        fresh = fresh[: max(0, self.left)]
        for row, score in zip(fresh, self._trials.look_up(fresh) if fresh else [], strict=True):
            self._seen[row.tobytes()] = row, score
        return [row for row in rows if row.tobytes() in self._seen]

    def knows(self, row: Row) -> bool:
        """Tell whether a row was scored."""
        return row.tobytes() in self._seen

    def score_of(self, row: Row) -> Score:
        """Return the score of a row that was scored."""
        return self._seen[row.tobytes()][1]

    def value(self, row: Row) -> float:
        """Return what a row that was scored is worth."""
        return self._trials.value(self.score_of(row))

    def best(self, computes: int) -> Row:
        """Return the best row of those that spend so much; at least one must have been scored."""
        costs = self._trials.space.costs
        rows = [row for row, _ in self._seen.values() if int(costs[row].sum()) == computes]
        return max(rows, key=self.value)


def _different(rows: Sequence[Row]) -> list[Row]:
    return list({row.tobytes(): row for row in rows}.values())


def _read(file: Path, steps: int) -> dict[bytes, Score]:
    """Read lines of candidates; the last one may be torn."""
    known: dict[bytes, Score] = {}
    lines = file.read_text(encoding="utf-8").split("\n")
    if lines[-1]:  # nothing ended this line: the program was killed while writing it
        with replacing(file) as part:
            part.write_text("".join(line + "\n" for line in lines[:-1]), encoding="utf-8")
    for number, line in enumerate(lines[:-1], 1):
        try:
            patterns, psnr, ssim = json.loads(line)
            row = np.array(patterns, dtype=np.int64)
            score = Score(float(psnr), float(ssim))
        except (ValueError, TypeError) as error:
            raise ArtifactError(
                f"{file}:{number}: expected [patterns, PSNR, SSIM], received {line!r:.80}; remove "
                "the file to search from the start"
            ) from error
        if row.shape != (steps,):
            raise ArtifactError(
                f"{file}:{number}: expected {steps} patterns, received {row.size}; remove the file "
                "to search from the start"
            )
        known[row.tobytes()] = score
    return known
