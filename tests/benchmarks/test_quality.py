from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import Kept
from benchmarks.quality import drawn
from ditcache_rl.bench import Board, Case
from ditcache_rl.schedules.spacing import spaced
from tests.kit.environment import PROMPTS, untrained_policy

STEPS = 4


def test_prompts_that_were_drawn_are_not_drawn_again(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call)
    board = Board(tiny_pipe, STEPS, sites=1, call=tiny_call, rows=2)
    cases = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS["train"])][:3]
    schedules = {str(count): spaced(STEPS, 1, count) for count in (1, 2)}

    def kept() -> Kept:
        return Kept(tmp_path, [*schedules], resume=True)

    whole = drawn(board, policy, cases, schedules, kept())
    first, _ = sorted(tmp_path.iterdir())
    for piece in set(tmp_path.iterdir()) - {first}:
        piece.unlink()
    calls: list[int] = []
    draw = board.draw

    def noted(cases: Sequence[Case], *rest: Any) -> Any:
        calls.append(len(cases))
        return draw(cases, *rest)

    monkeypatch.setattr(board, "draw", noted)
    resumed = drawn(board, policy, cases, schedules, kept())

    assert set(calls) == {1}  # the last prompt alone: two were drawn together
    for name, reached in whole.items():
        assert reached.psnr_db.shape == (3,)
        np.testing.assert_array_equal(resumed[name].psnr_db, reached.psnr_db)
        np.testing.assert_array_equal(resumed[name].expected_db, reached.expected_db)
