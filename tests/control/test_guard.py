"""What goes wrong is computed, and nothing else changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ditcache_rl as dc
from ditcache_rl.control import Controller, EveryK, Guard, GuardedController, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.inference.expected import is_drifted
from ditcache_rl.schedules import Expectation, Reached, Schedule
from ditcache_rl.types import HISTORY
from tests.kit.environment import PROMPTS, untrained_policy
from tests.kit.laws import check_controller, check_rows_decide_alone

STEPS = 8


def draw(pipe: Any, call: dict[str, Any], *, rows: int = 1, steps: int = STEPS) -> Tensor:
    images: Tensor = pipe(
        list(PROMPTS["train"][:rows]),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(row) for row in range(rows)],
        output_type="latent",
        **call,
    ).images
    return images


def text_of(run: dc.Run, row: int = 0) -> str:
    return "".join("CR12"[mode] for mode in run.logs[-1].modes[:, row, 0])


def times(factor: float) -> Schedule:
    """Every second step, estimated as so many times the output before."""
    modes = np.array([[0], [1]] * (STEPS // 2), dtype=np.int8)
    own = np.full((STEPS, HISTORY), np.nan)
    own[1::2] = (factor, 0.0, 0.0)
    return Schedule(modes, own)


@pytest.mark.parametrize("sites", [1, 3])
def test_a_guarded_controller_is_a_controller(sites: int) -> None:
    def make() -> Controller:
        return GuardedController(EveryK(4), Guard(longest=2, last=True))

    check_controller(make, sites=sites)
    check_rows_decide_alone(make)


def test_a_request_in_which_nothing_goes_wrong_is_left_as_it_is(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    drawn = []
    for guard in (None, Guard()):
        with dc.cached(tiny_pipe, EveryK(3, order=2), sites=2, guard=guard) as run:
            drawn.append(draw(tiny_pipe, tiny_call, rows=2))
        assert "guard" not in run.summary()

    assert torch.equal(*drawn)


def test_the_row_whose_estimates_are_far_off_is_computed_to_the_end(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    mixed = StaticSchedule(times(1.0), times(9.0))
    with dc.cached(tiny_pipe, mixed, blocks="transformer") as run:
        draw(tiny_pipe, tiny_call, rows=2)

    assert [text_of(run, row) for row in range(2)] == ["CRCRCRCR", "CRCRCCCC"]
    assert run.logs[0].guarded.startswith("an estimate was off by ")
    assert "guard         1 computed to the end, the last as an estimate" in run.summary()

    with dc.cached(tiny_pipe, mixed, blocks="transformer", guard=None) as run:
        draw(tiny_pipe, tiny_call, rows=2)
    assert text_of(run, 1) == "CRCRCRCR"


def test_what_is_computed_to_the_end_is_what_the_plain_steps_make_of_it(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    own = np.full((STEPS, HISTORY), np.nan)
    own[[1, 3]] = (9.0, 0.0, 0.0)
    twice = Schedule(np.array([[0], [1], [0], [1], *[[0]] * (STEPS - 4)], dtype=np.int8), own)

    with dc.cached(tiny_pipe, StaticSchedule(times(9.0)), blocks="transformer"):
        guarded = draw(tiny_pipe, tiny_call)
    with dc.cached(tiny_pipe, StaticSchedule(twice), blocks="transformer", guard=None):
        assert torch.equal(draw(tiny_pipe, tiny_call), guarded)


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        (Guard(), "CRRRCRRR"),
        (Guard(last=True), "CRRRCRRC"),
        (Guard(longest=1), "CRCRCRCR"),
        (Guard(longest=2, last=True), "CRRCCRRC"),
    ],
)
@pytest.mark.parametrize("planned", [True, False])
def test_runs_of_estimates_and_the_last_step_are_bounded(
    guard: Guard, expected: str, planned: bool, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    modes = np.array([[0], [1], [1], [1]] * 2, dtype=np.int8)
    controller = StaticSchedule.of(modes) if planned else EveryK(4)
    with dc.cached(tiny_pipe, controller, guard=guard) as run:
        draw(tiny_pipe, tiny_call)

    assert text_of(run) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"most_error": 0.0}, "most_error must be > 0"),
        ({"longest": 0}, "longest must lie in"),
        ({"patience": 1.5}, "patience must be"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Guard(**given)


def test_only_a_guard_is_one(tiny_pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"guard must be as Guard\(longest=4\), or None"):
        dc.attach(tiny_pipe, EveryK(2), guard=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(("expected_db", "trusted"), [(29.0, True), (2.0, False)])
def test_a_policy_whose_estimates_are_worse_than_in_training_is_followed_no_more(
    expected_db: float, trusted: bool, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call)
    table = policy.tables[4]
    # The signal of step 2 adds less than a thousandth of a dB.
    told = Expectation(expected_db, 1.0, tuple((1e-9 * (step == 2), 0.0, 0.0) for step in range(4)))
    reached = Reached.of(np.linspace(28, 40, 9), np.ones(9))
    known = table.with_lines({2: table[2]._replace(expectation=told, reached=reached)})
    policy = replace(policy, tables={**policy.tables, 4: known})

    with dc.cached(tiny_pipe, policy, budget=0.5) as run:
        for _ in range(5):
            draw(tiny_pipe, tiny_call, steps=4)

    assert is_drifted(policy, run.logs[0]) is not trusted
    shares = [float(log.compute_share[0]) for log in run.logs]
    assert shares == [0.5] * 3 + [0.5 if trusted else 1.0] * 2
    assert ("everything is computed: estimates of 3 requests" in run.summary()) is not trusted
