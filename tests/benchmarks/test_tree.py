from typing import Any

import numpy as np
import pytest

from benchmarks.trees.tree import grow_tree, tree_index, tree_schedules
from ditcache_rl.bench import Board, Case
from ditcache_rl.control import StaticSchedule
from ditcache_rl.types import Mode
from tests.kit.pipelines import PROMPTS, assert_close, draw_under

STEPS = 5


@pytest.mark.parametrize("blocks", [None, "transformer"])
@pytest.mark.parametrize("between", [Mode.REUSE, Mode.FORECAST1, Mode.FORECAST2])
def test_every_schedule_of_a_tree_equals_a_real_run(
    between: Mode, blocks: str | None, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    board = Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks=blocks)
    computed: list[int] = []

    latents = grow_tree(board, Case(PROMPTS[0], 7), between, rows=4, on_rows=computed.append)

    schedules = tree_schedules(STEPS, between)
    assert len(latents) == len(schedules) == 16
    assert sum(computed) == 16
    assert max(computed) == 4
    for modes, grown in zip(schedules, latents, strict=True):
        controller = StaticSchedule.of(modes[:, None])
        call: dict[str, Any] = {"prompts": [PROMPTS[0]], "seeds": (7,), "steps": STEPS}
        real, _ = draw_under(tiny_pipe, controller, blocks=blocks, **call)
        assert_close(grown[None], real)


def test_schedules_and_their_numbers_go_together() -> None:
    schedules = tree_schedules(6, Mode.FORECAST1)

    np.testing.assert_array_equal(tree_index(schedules), np.arange(32))
    assert {modes.tobytes() for modes in schedules} == {
        np.array([0, *(2 - 2 * (code >> bit & 1) for bit in range(5))], dtype=np.int8).tobytes()
        for code in range(32)
    }
