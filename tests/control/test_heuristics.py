from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.control import (
    AllCompute,
    Controller,
    EasyCache,
    EveryK,
    FBCache,
    Newton,
    TeaCache,
)
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Mode, Tier
from tests.kit.laws import Walk, check_controller, check_rows_decide_alone, random_signals
from tests.kit.pipelines import PROMPTS, assert_close, draw, draw_under

HUGE = 1e9
MAKERS: dict[str, Callable[[], Controller]] = {
    "all": AllCompute,
    "every third": lambda: EveryK(3),
    "every second, forecast": lambda: EveryK(2, order=2),
    "newton": lambda: Newton(0.4),
    "first block": lambda: FBCache(0.3),
    "tea": lambda: TeaCache(0.3),
    "easy": lambda: EasyCache(0.3),
}
THRESHOLD_RULES: list[Callable[[float], Controller]] = [FBCache, TeaCache, EasyCache]


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_every_heuristic_is_a_controller(name: str, sites: int) -> None:
    check_controller(MAKERS[name], sites=sites)


@pytest.mark.parametrize("name", MAKERS)
def test_a_row_decides_without_its_neighbours(name: str) -> None:
    check_rows_decide_alone(MAKERS[name])


@pytest.mark.parametrize(("rule", "threshold"), [(FBCache, 0.3), (TeaCache, 1.0), (EasyCache, 0.3)])
def test_rows_of_one_batch_may_differ(
    rule: Callable[[float], Controller], threshold: float
) -> None:
    modes = check_rows_decide_alone(lambda: rule(threshold))

    assert len({modes[:, row].tobytes() for row in range(4)}) > 1


@pytest.mark.parametrize(("rule", "threshold"), [(FBCache, 0.5), (TeaCache, 1.0), (EasyCache, 0.2)])
def test_rows_of_a_pipeline_call_decide_as_in_calls_of_their_own(
    tiny_pipe: Any, rule: Callable[[float], Controller], threshold: float
) -> None:
    call: dict[str, Any] = {"steps": 10}

    together, log = draw_under(tiny_pipe, rule(threshold), prompts=PROMPTS, seeds=(0, 1), **call)

    for row in range(2):
        alone, single = draw_under(
            tiny_pipe, rule(threshold), prompts=PROMPTS[row], seeds=(row,), **call
        )
        assert np.array_equal(single.modes[:, 0], log.modes[:, row])
        assert_close(together[row], alone[0])
    assert (log.modes == Mode.REUSE).any()


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_a_threshold_of_zero_computes_everything(
    tiny_pipe: Any, rule: Callable[[float], Controller]
) -> None:
    latents, log = draw_under(tiny_pipe, rule(0.0), prompts=PROMPTS, seeds=(0, 1))

    assert (log.modes == Mode.COMPUTE).all()
    assert torch.equal(latents, draw(tiny_pipe, PROMPTS, seeds=(0, 1)))


@pytest.mark.parametrize(
    ("controller", "computed"),
    [
        (FBCache(HUGE), [0]),
        (TeaCache(HUGE), [0, 19]),  # the first and the last step, as in its FLUX code
        (EasyCache(HUGE), [0, 1, 2, 19]),  # before 15 % and from 95 % on
        (EasyCache(HUGE, start=0, end=1), [0, 1]),  # its rate needs two computed outputs
        (EasyCache(HUGE, start=0.5, end=0.6), [*range(10), *range(12, 20)]),
    ],
)
def test_a_huge_threshold_computes_the_least_that_the_rule_allows(
    controller: Controller, computed: list[int]
) -> None:
    signals = random_signals(steps=20, rows=2, sites=1)

    modes = Walk(controller, signals, range(2)).to_the_end()

    for row in range(2):
        assert np.flatnonzero(modes[:, row, 0] == Mode.COMPUTE).tolist() == computed


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_a_larger_threshold_never_computes_more(rule: Callable[[float], Controller]) -> None:
    signals = random_signals(steps=20, rows=4, sites=1)

    computed = [
        int((Walk(rule(t), signals, range(4)).to_the_end() == Mode.COMPUTE).sum())
        for t in (0.0, 0.1, 0.3, 1.0, HUGE)
    ]

    assert computed == sorted(computed, reverse=True)
    assert computed[0] == 80


def test_fbcache_compares_with_the_last_computed_step_and_not_with_the_last_step() -> None:
    # The probe grows by 10 % of its first value at every step: 30 % after three of them.
    signals = random_signals(steps=8, rows=1, sites=1)
    growth = 1 + 0.1 * torch.arange(8.0)
    signals = signals._replace(probes=growth[:, None, None] * torch.ones(8, 1, 5))

    modes = Walk(FBCache(0.25), signals, [0]).to_the_end()

    # 1.3 / 1.0 - 1 = 0.3 at step 3; 1.7 / 1.3 - 1 = 0.31 at step 7, while 1.6 / 1.3 - 1 = 0.23.
    assert modes[:, 0, 0].tolist() == [0, 1, 1, 0, 1, 1, 1, 0]


def test_teacache_accumulates_the_rescaled_change_between_steps() -> None:
    signals = random_signals(steps=8, rows=1, sites=1)
    growth = 2.0 ** torch.arange(8.0)  # a relative change of 1 at every step
    signals = signals._replace(modulated=growth[:, None, None, None] * torch.ones(8, 1, 2, 2))

    modes = Walk(TeaCache(1.0, coefficients=(0.4, 0.0)), signals, [0]).to_the_end()

    # 0.4, 0.8, 1.2 and from zero again; the last step computes anyway.
    assert modes[:, 0, 0].tolist() == [0, 1, 1, 0, 1, 1, 0, 0]


def test_easycache_scales_the_change_of_the_input_by_the_rate_of_computed_steps() -> None:
    signals = random_signals(steps=8, rows=1, sites=1)
    ones = torch.ones(8, 1, 2, 2)
    count = torch.arange(8.0)[:, None, None, None]
    # Inputs move by 1 per step, outputs by 2 from a magnitude of 10 on: rate 2.
    signals = signals._replace(latents=count * ones, outputs=(10 + 2 * count) * ones)

    modes = Walk(EasyCache(0.4, start=0, end=1), signals, [0]).to_the_end()

    # Steps 0 and 1 teach the rate. Reference output 12: 2 * 1 / 12 per step, 0.5 after three.
    # Then reference output 18 (step 4): 2 / 18 per step, and 0.44 would be reached at step 8.
    assert modes[:, 0, 0].tolist() == [0, 0, 1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize("k", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_every_k_counts_steps(k: int, order: int) -> None:
    signals = random_signals(steps=8, rows=2, sites=2)

    walk = Walk(EveryK(k, order=order), signals, range(2))
    walk.to_the_end()

    for step, decision in enumerate(walk.decisions):
        assert (decision.modes == (order + 1 if step % k else Mode.COMPUTE)).all()
        assert (decision.tiers == Tier.DEVICE).all()


def test_all_compute_keeps_nothing() -> None:
    walk = Walk(AllCompute(), random_signals(steps=4, rows=2, sites=2), range(2))

    walk.to_the_end()

    assert all((decision.tiers == Tier.DROP).all() for decision in walk.decisions)


@pytest.mark.parametrize(
    ("k", "order", "said"),
    [
        (0, 0, r"k must lie in \[1, 1000000\], received 0"),
        (-1, 0, "k must lie in"),
        ("2", 0, "k must be a whole number, received '2'"),
        (2.5, 0, "k must be a whole number, received 2.5"),
        (2, 3, r"order must lie in \[0, 2\], received 3"),
        (2, -1, "order must lie in"),
    ],
)
def test_every_k_refuses_what_it_cannot_do(k: Any, order: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EveryK(k, order=order)


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_a_threshold_is_a_number(rule: Callable[[Any], Controller]) -> None:
    with pytest.raises(ConfigError, match=r"threshold must be a number, received '0\.1'"):
        rule("0.1")


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_a_threshold_is_a_number_from_zero_on(
    rule: Callable[[float], Controller], threshold: float
) -> None:
    with pytest.raises(ConfigError, match="threshold must be >= 0"):
        rule(threshold)
