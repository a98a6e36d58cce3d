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

from ditcache_rl.bench import Case, Scorer
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import parse_json, read_text, replacing
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.schedules import Objective, Schedule, Scored
from ditcache_rl.search.space import Space

#: Of lines of a few hundred bytes, each of which took seconds to draw.
_MOST_BYTES = 1 << 28


class Score(NamedTuple):
    """Means over the cases."""

    psnr_db: float
    ssim: float


class Trials:
    """A board and its cases, and every candidate that was ever scored on them.

    Args:
        board: Where candidates are drawn.
        cases: What they are drawn on.
        objective: What counts.
        space: What candidates may be; by default everything that the board's steps and sites allow.
        file: Lines of candidates and scores; read if it is there, and added to.
        on_candidates: Hears how many candidates were asked for and not known to the search before.

    Raises:
        ArtifactError: If the file does not hold such lines.
    """

    def __init__(
        self,
        board: Scorer,
        cases: Sequence[Case],
        objective: Objective,
        *,
        space: Space | None = None,
        file: Path | None = None,
        on_candidates: Callable[[int], None] | None = None,
    ) -> None:
        self.board, self.cases, self.objective = board, cases, objective
        self.space = space or Space(board.steps, board.sites)
        #: Candidates that are drawn in one pipeline call.
        self.width = max(1, board.rows // len(cases))
        self._file, self._on_candidates = file, on_candidates
        self._known = _read(file, self.space) if file is not None and file.exists() else {}

    def attempt(self, limit: int) -> Attempt:
        """Begin a search that may score so many different candidates."""
        return Attempt(self, limit)

    def look_up(self, schedules: Sequence[Schedule]) -> list[Score]:
        """Return the scores of candidates; those that are not known are drawn."""
        missing = [one for one in dict.fromkeys(schedules) if one not in self._known]
        for begin in range(0, len(missing), self.width):
            part = missing[begin : begin + self.width]
            repeated = [one for one in part for _ in self.cases]
            drawn = self.board.score(list(self.cases) * len(part), repeated)
            columns = [np.reshape(c, (len(part), -1)).mean(axis=1) for c in drawn]
            scores = [Score(float(p), float(s)) for p, s in zip(*columns, strict=True)]
            self._note(part, scores)
        if self._on_candidates is not None:
            self._on_candidates(len(schedules))
        return [self._known[one] for one in schedules]

    def scored(self, schedule: Schedule) -> Scored:
        """Draw a schedule that was fitted, whatever was drawn before; it is not remembered.

        Full compute is the reference.
        """
        if schedule.computes == schedule.modes.size:
            return Scored(schedule, PSNR_CAP_DB, 1.0)
        drawn = self.board.score(self.cases, [schedule] * len(self.cases))
        return Scored(schedule, float(drawn.psnr_db.mean()), float(drawn.ssim.mean()))

    def value(self, score: Score) -> float:
        """Return what a score is worth."""
        return self.objective.quality(*score)

    def _note(self, schedules: Sequence[Schedule], scores: Sequence[Score]) -> None:
        pairs = list(zip(schedules, scores, strict=True))
        self._known.update(pairs)
        if self._file is not None:
            lines = [json.dumps([self.space.numbers(one).tolist(), *score]) for one, score in pairs]
            with self._file.open("a", encoding="utf-8") as log:
                log.write("\n".join(lines) + "\n")


class Attempt:
    """One search: what it has seen, and how many candidates are left to it."""

    def __init__(self, trials: Trials, limit: int) -> None:
        self._trials = trials
        self._limit = limit
        self._seen: dict[Schedule, Score] = {}

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

    def score(self, schedules: Iterable[Schedule]) -> list[Schedule]:
        """Score what is new, as far as the limit allows; returns those that are known now."""
        schedules = list(schedules)
        fresh = [one for one in dict.fromkeys(schedules) if one not in self._seen]
        fresh = fresh[: max(0, self.left)]
        if fresh:
            self._seen.update(zip(fresh, self._trials.look_up(fresh), strict=True))
        return [one for one in schedules if one in self._seen]

    def knows(self, schedule: Schedule) -> bool:
        """Tell whether a schedule was scored."""
        return schedule in self._seen

    def scored(self, schedule: Schedule) -> Scored:
        """Return a schedule that was scored, with its score."""
        return Scored(schedule, *self._seen[schedule])

    def value(self, schedule: Schedule) -> float:
        """Return what a schedule that was scored is worth."""
        return self._trials.value(self._seen[schedule])

    def best(self, computes: int) -> Schedule:
        """Return the best schedule that computes so much; at least one must have been scored."""
        return max((one for one in self._seen if one.computes == computes), key=self.value)


def _read(file: Path, space: Space) -> dict[Schedule, Score]:
    """Read lines of candidates; the last one may be torn."""
    known: dict[Schedule, Score] = {}
    lines = read_text(file, _MOST_BYTES).split("\n")
    if lines[-1]:  # nothing ended this line: the program was killed while writing it
        with replacing(file) as part:
            part.write_text("".join(line + "\n" for line in lines[:-1]), encoding="utf-8")
    for number, line in enumerate(lines[:-1], 1):
        try:
            patterns, psnr, ssim = parse_json(line)
            numbers = np.array(patterns, dtype=np.int64)
            schedule, score = space.schedule(numbers), Score(float(psnr), float(ssim))
        except (ValueError, TypeError, IndexError, OverflowError, ConfigError) as error:
            raise ArtifactError(
                f"{file}:{number}: expected [patterns, PSNR, SSIM], received {line!r:.80}; remove "
                "the file to search from the start"
            ) from error
        if numbers.shape != (space.steps,):
            raise ArtifactError(
                f"{file}:{number}: expected {space.steps} patterns, received {numbers.size}; "
                "remove the file to search from the start"
            )
        known[schedule] = score
    return known
