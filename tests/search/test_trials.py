from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ditcache_rl.bench import Case, Quality
from ditcache_rl.errors import ArtifactError
from ditcache_rl.schedules import Objective, Schedule
from ditcache_rl.search import Trials
from ditcache_rl.types import HISTORY
from tests.kit.boards import Puzzle, hidden_schedule

CASES = [Case("a", 1), Case("b", 2)]


def schedules(*texts: str) -> list[Schedule]:
    return [Schedule.from_text(text) for text in texts]


@pytest.fixture
def board() -> Puzzle:
    return Puzzle(hidden_schedule(4, 1, 0))


def test_a_candidate_is_drawn_once_on_every_case(board: Puzzle) -> None:
    trials = Trials(board, CASES, Objective())
    one, two = schedules("CRRR", "C111")

    trials.attempt(5).score([one, two, one])
    trials.attempt(5).score([two])

    assert board.asked == [one, one, two, two]


def test_an_attempt_counts_what_it_has_not_seen_and_stops_at_its_limit(board: Puzzle) -> None:
    heard: list[int] = []
    trials = Trials(board, CASES, Objective(), on_candidates=heard.append)
    one, two, three = schedules("CRRR", "C111", "C222")
    trials.attempt(9).score([one])

    attempt = trials.attempt(2)
    known = attempt.score([one, one, two, three])

    assert known == [one, one, two]
    assert (attempt.left, attempt.spent, attempt.knows(three)) == (0, 2, False)
    assert attempt.score([three]) == []
    assert heard == [1, 2]


def test_the_best_is_that_of_the_same_number_of_computes(board: Puzzle) -> None:
    attempt = Trials(board, CASES, Objective(1.0, 0.0)).attempt(9)
    assert board.hidden.computes == 1
    others = schedules("CRRR", "C111", "CC11", "CCC1")
    attempt.score([*others, board.hidden])

    assert attempt.best(1) == board.hidden
    assert attempt.best(2) == others[2]
    assert attempt.scored(board.hidden)[:2] == (board.hidden, 60.0)


def test_an_objective_says_what_a_candidate_is_worth(board: Puzzle) -> None:
    attempt = Trials(board, CASES, Objective(2.0, 3.0)).attempt(1)
    attempt.score([board.hidden])

    assert attempt.value(board.hidden) == pytest.approx(2 * 6.0 + 3 * 1.0)


class Fitted(Puzzle):
    """Scores schedules with coefficients too."""

    def score(self, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        self.asked += schedules
        decibels = np.array([float(case.seed) for case in cases])
        return Quality(decibels, decibels / 60)


def test_a_fitted_schedule_is_drawn_whatever_was_drawn_before_and_not_remembered(
    tmp_path: Path,
) -> None:
    board, file = Fitted(hidden_schedule(4, 1, 0)), tmp_path / "trials.jsonl"
    trials = Trials(board, CASES, Objective(), file=file)
    fitted = Schedule.on_path((0, 2), 4, np.ones((4, HISTORY)))

    scored = [trials.scored(fitted) for _ in range(2)]

    assert scored[0].schedule is fitted
    assert scored[0][1:3] == pytest.approx((1.5, 1.5 / 60))
    assert board.asked == [fitted] * 4
    assert not file.exists()


def test_full_compute_is_the_reference_and_not_drawn() -> None:
    board = Fitted(hidden_schedule(4, 1, 0))

    scored = Trials(board, CASES, Objective()).scored(Schedule.on_path((0, 1, 2, 3), 4))

    assert scored[1:3] == (60.0, 1.0)
    assert board.asked == []


def test_what_was_drawn_is_read_back(board: Puzzle, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    candidates = schedules("CRRR", "C1R1")
    before = Trials(board, CASES, Objective(), file=file).look_up(candidates)
    with file.open("a") as log:
        log.write("[[0, 1")  # killed while writing

    again = Puzzle(board.hidden)
    trials = Trials(again, CASES, Objective(), file=file)
    assert trials.look_up(candidates) == before
    assert again.asked == []

    trials.look_up(schedules("CR12"))
    assert len(file.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[[0, 1], 1.0, 1.0]",
        "[1, 2, 3]",
        '{"a": 1}',
        "[[0, 1, 1, 9], 1.0, 1.0]",
        "[[1, 1, 1, 1], 1.0, 1.0]",
    ],
)
def test_a_damaged_file_is_refused_with_its_line(line: str, board: Puzzle, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_text("[[0, 1, 1, 1], 50.0, 0.9]\n" + line + "\n")

    with pytest.raises(ArtifactError, match=r"trials.jsonl:2: expected"):
        Trials(board, CASES, Objective(), file=file)
