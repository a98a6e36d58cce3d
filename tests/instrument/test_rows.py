"""A row's image depends on its own prompt, seed and decisions, whatever else is in the batch."""

from typing import Any

from benchmarks.zoo.requests import ROW_TABLES, prompted
from benchmarks.zoo.rows import ROUNDING, rounding


def test_eight_rows_that_decide_for_themselves_are_drawn_as_alone(tiny_pipe: Any) -> None:
    unit = prompted(tiny_pipe)

    assert rounding(unit, range(len(ROW_TABLES)), ROW_TABLES) <= ROUNDING
