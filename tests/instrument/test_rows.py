"""A row's image depends on its own prompt, seed and decisions, whatever else is in the batch."""

from typing import Any

from tests.zoo.requests import eight_rows


def test_eight_rows_that_decide_for_themselves_are_drawn_as_alone(tiny_pipe: Any) -> None:
    assert eight_rows(tiny_pipe).largest <= 1.0
