"""A few sequences; `benchmarks/hostile.py` plays all of them."""

from typing import Any

import pytest

from benchmarks.misuse.moves import Move
from benchmarks.misuse.play import kind_of, play, sequence, shortened
from benchmarks.misuse.subjects import KINDS, Truths
from benchmarks.misuse.world import BARE, LEFT, WRONG, Playground
from ditcache_rl.inference import Run

TRUTHS = Truths()
ATTACH = Move("attach", 0, 1, 0, 0)
CALL = Move("call", 0, 0, 0, 0)
#: Nothing that a finding could need.
NEEDLESS = [Move("copy", 0, 0, 0, 0), Move("scheduler", 1, 0, 0, 0)]


@pytest.mark.filterwarnings("ignore")  # diffusers deprecates arguments of its own pipelines
@pytest.mark.parametrize("seed", range(9))
def test_nothing_wrong_comes_of_a_sequence(seed: int) -> None:
    assert play(kind_of(seed), sequence(seed), TRUTHS) is None


def test_a_seed_is_a_sequence() -> None:
    assert sequence(3) == sequence(3) != sequence(4)
    assert {kind_of(seed) for seed in range(3)} == set(KINDS)


def test_a_wrong_image_is_found_and_its_sequence_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Playground, "serving", lambda *_: [])
    moves = [*NEEDLESS, ATTACH, *NEEDLESS, CALL]

    figure, sentence = play(KINDS[0], moves, TRUTHS) or ("", "")

    assert figure == WRONG
    assert sentence == "call: expected that under all-compute, received another"
    assert shortened(KINDS[0], moves, TRUTHS, WRONG) == [ATTACH, CALL]


def test_what_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "detach", lambda self: None)

    figure, sentence = play(KINDS[0], [ATTACH], TRUTHS) or ("", "")

    assert figure == LEFT
    assert sentence.startswith("in the end: the class")


def test_an_error_that_nobody_raised_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Playground, *_: Any, **__: Any) -> None:
        raise KeyError("nothing")

    monkeypatch.setattr(Playground, "begin", fail)

    figure, sentence = play(KINDS[0], [ATTACH, CALL], TRUTHS) or ("", "")

    assert figure == BARE
    assert sentence.startswith("attach: KeyError('nothing') at test_misuse.py:fail")
