from pathlib import Path

import numpy as np
import pytest

from ditcache_rl.bench import Case
from ditcache_rl.errors import ArtifactError
from ditcache_rl.search import Row, Trials, Weights
from tests.kit.boards import Puzzle, hidden_schedule

CASES = [Case("a", 1), Case("b", 2)]


def rows(*modes: str) -> list[Row]:
    return [np.array(list(map(int, row)), dtype=np.int64) for row in modes]


@pytest.fixture
def board() -> Puzzle:
    return Puzzle(hidden_schedule(4, 1, 0))


def test_a_candidate_is_drawn_once_on_every_case(board: Puzzle) -> None:
    trials = Trials(board, CASES, Weights())
    one, two = rows("0111", "0222")

    trials.attempt(5).score([one, two, one])
    trials.attempt(5).score([two])

    assert len(board.scored) == 4


def test_an_attempt_counts_what_it_has_not_seen_and_stops_at_its_limit(board: Puzzle) -> None:
    heard: list[int] = []
    trials = Trials(board, CASES, Weights(), on_candidates=heard.append)
    one, two, three = rows("0111", "0222", "0333")
    trials.attempt(9).score([one])

    attempt = trials.attempt(2)
    known = attempt.score([one, one, two, three])

    assert [row.tolist() for row in known] == [one.tolist(), one.tolist(), two.tolist()]
    assert (attempt.left, attempt.spent, attempt.knows(three)) == (0, 2, False)
    assert attempt.score([three]) == []
    assert heard == [1, 2]


def test_the_best_is_that_of_the_same_cost(board: Puzzle) -> None:
    attempt = Trials(board, CASES, Weights(1.0, 0.0)).attempt(9)
    cheap, same = rows("0111", "0222"), [board.hidden[:, 0].astype(np.int64)]
    attempt.score([*cheap, *same])

    cost = int((board.hidden == 0).sum())
    assert attempt.best(cost).tolist() == same[0].tolist()
    assert attempt.score_of(same[0]).psnr_db == 60.0


def test_what_was_drawn_is_read_back(board: Puzzle, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    candidates = rows("0111", "0212")
    before = Trials(board, CASES, Weights(), file=file).look_up(candidates)
    with file.open("a") as log:
        log.write("[[0, 1")  # killed while writing

    again = Puzzle(board.hidden)
    trials = Trials(again, CASES, Weights(), file=file)
    assert trials.look_up(candidates) == before
    assert again.scored == []

    trials.look_up(rows("0123"))
    assert len(file.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["nonsense", "[[0, 1], 1.0, 1.0]", "[1, 2, 3]", '{"a": 1}'])
def test_a_damaged_file_is_refused_with_its_line(line: str, board: Puzzle, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_text("[[0, 1, 1, 1], 50.0, 0.9]\n" + line + "\n")

    with pytest.raises(ArtifactError, match=r"trials.jsonl:2: expected"):
        Trials(board, CASES, Weights(), file=file)
