"""A row's image depends on its own prompt, seed and decisions, whatever else is in the batch."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tests.pipelines import PROMPTS, draw
from tests.zoo.checks import Unit, row_gaps

#: Modes of eight rows, all different: at each step some rows compute and others do not.
TABLES = (
    (0, 0, 0, 0, 0, 0),
    (0, 1, 0, 2, 0, 3),
    (0, 0, 1, 1, 0, 2),
    (0, 1, 1, 0, 1, 1),
    (0, 0, 2, 0, 0, 3),
    (0, 1, 0, 1, 0, 1),
    (0, 0, 0, 1, 2, 0),
    (0, 1, 2, 0, 1, 0),
)


def test_eight_rows_that_decide_for_themselves_are_drawn_as_alone(tiny_pipe: Any) -> None:
    def batch(seeds: Sequence[int], large: bool) -> Tensor:
        return draw(
            tiny_pipe,
            [PROMPTS[seed % 2] for seed in seeds],
            seeds=seeds,
            true_cfg_scale=2.0,
            negative_prompt=["a ring"] * len(seeds),
        )

    gaps = row_gaps(Unit(tiny_pipe, batch), range(8), TABLES)

    assert gaps.ratio <= 1.0
