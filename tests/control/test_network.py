import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ditcache_rl.control import (
    ActionSpace,
    NetworkController,
    PolicyNetwork,
    best_actions,
)
from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import HISTORY, Mode, Tier
from tests.kit.laws import Walk, check_controller, check_rows_decide_alone, random_signals

TIERS = (Tier.DEVICE, Tier.DROP)


def network_for(actions: ActionSpace, *, seed: int | None = None) -> PolicyNetwork:
    """Build a network with a random head, or with the zero head that it starts with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        network = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits)
        if seed is not None:
            torch.nn.init.normal_(network.head.weight, std=3)
    return network.eval()


def controller(
    sites: int,
    scheduled: list[int],
    *,
    computes: int = 0,
    weight: float = 0.0,
    seed: int | None = None,
    tiers: tuple[Tier, ...] = TIERS,
) -> NetworkController:
    """Build a controller whose schedule has these patterns."""
    actions = ActionSpace.of(sites, tiers)
    return NetworkController(
        actions,
        network_for(actions, seed=seed),
        schedule=Schedule(actions.patterns[scheduled]),
        computes=computes,
        latency_weight=weight,
    )


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize(("computes", "weight"), [(5, 0.0), (0, 1.0)])
@pytest.mark.parametrize("sites", [1, 2])
def test_a_network_controller_is_a_controller(
    sites: int, computes: int, weight: float, seed: int | None
) -> None:
    scheduled = [0, 1, 0, 2, 1, 0, 3, 1]
    check_controller(
        lambda: controller(sites, scheduled, computes=computes, weight=weight, seed=seed),
        sites=sites,
    )


def test_its_rows_decide_alone() -> None:
    modes = check_rows_decide_alone(lambda: controller(1, [0] * 12, computes=6, seed=3))

    assert len({modes[:, row].tobytes() for row in range(4)}) > 1


def test_an_untrained_network_follows_its_schedule() -> None:
    actions = ActionSpace.of(2, TIERS)
    scheduled = [0, 1, 4, 2, 0, 5]
    signals = random_signals(steps=6, rows=3, sites=2)

    walk = Walk(controller(2, scheduled, computes=6), signals, range(3))
    walk.to_the_end()

    for pattern, decision in zip(scheduled, walk.decisions, strict=True):
        assert (decision.modes == actions.patterns[pattern]).all()
        assert (decision.tiers == Tier.DEVICE).all()


def test_what_was_fitted_to_the_schedule_goes_with_it() -> None:
    actions = ActionSpace.of(1, TIERS)
    coefficients = np.full((4, HISTORY), np.nan)
    coefficients[1], coefficients[3] = [1.5, 0, 0], [2.0, -1.0, 0]
    fitted = NetworkController(
        actions,
        network_for(actions),
        schedule=Schedule.from_text("C1C1", coefficients),
        computes=2,
        latency_weight=0.0,
    )
    walk = Walk(fitted, random_signals(steps=4, rows=2, sites=1), range(2))

    walk.to_the_end()

    found = [decision.fitted for decision in walk.decisions]
    assert [one is None for one in found] == [True, False, True, False]
    for step in (1, 3):
        one = found[step]
        assert one is not None
        np.testing.assert_array_equal(one.coefficients, np.stack([coefficients[step]] * 2))
    assert one is not None
    assert one.steps.tolist() == [[2, 0, -1]] * 2


def test_a_schedule_whose_steps_are_no_patterns_is_refused() -> None:
    actions = ActionSpace.of(2, TIERS)
    mixed = NetworkController(
        actions,
        network_for(actions),
        schedule=Schedule.from_text("CR | C1"),
        computes=2,
        latency_weight=0.0,
    )

    with pytest.raises(ConfigError, match="among the step patterns"):
        Walk(mixed, random_signals(steps=2, rows=1, sites=2), [0])


@given(st.data(), st.integers(1, 3), st.integers(2, 8), st.integers(0, 2**16))
@settings(max_examples=40)
def test_whatever_the_network_says_it_computes_exactly_what_was_asked_for(
    data: st.DataObject, sites: int, steps: int, seed: int
) -> None:
    computes = data.draw(st.integers(sites, sites * steps), label="computes")
    signals = random_signals(steps=steps, rows=3, sites=sites, seed=seed)
    decides = controller(sites, [0] * steps, computes=computes, seed=seed)

    modes = Walk(decides, signals, range(3)).to_the_end()

    assert ((modes == Mode.COMPUTE).sum(axis=(0, 2)) == computes).all()


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**16))
@settings(max_examples=40)
def test_what_memory_loss_makes_it_compute_is_taken_from_what_it_may_compute_later(
    sites: int, spare: int, seed: int
) -> None:
    signals = random_signals(steps=8, rows=2, sites=sites, seed=seed)
    decides = controller(sites, [0] * 8, computes=sites + spare, seed=seed, tiers=(Tier.DEVICE,))
    walk = Walk(decides, signals, range(2))

    lost = (3, 4)
    for step in range(8):
        if step in lost:
            walk.lose()
        walk.step()

    computed = (np.stack(walk.modes) == Mode.COMPUTE).sum(axis=2)
    assert (computed[list(lost)] == sites).all(), "there is nothing to estimate from"
    left = np.maximum(sites + spare - computed[:5].sum(axis=0), 0)
    assert (computed[5:].sum(axis=0) == left).all(), "what was asked for, if that is not too late"


@given(st.integers(0, 2**16))
@settings(max_examples=20)
def test_the_first_residual_is_always_kept(seed: int) -> None:
    signals = random_signals(steps=3, rows=3, sites=1, seed=seed)
    walk = Walk(controller(1, [0] * 3, weight=1.0, seed=seed), signals, range(3))

    walk.to_the_end()

    assert (walk.decisions[0].tiers == Tier.DEVICE).all()


def test_a_request_changes_neither_the_network_nor_the_schedule() -> None:
    decides = controller(1, [0, 1, 0, 1], computes=2, seed=3)
    network, schedule = (decides.__dict__[name] for name in ("_network", "_schedule"))
    before = copy.deepcopy(network.layers)
    signals = random_signals(steps=4, rows=2, sites=1)

    Walk(decides, signals, range(2)).to_the_end()

    for layer, then in zip(network.layers, before, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(layer, then, strict=True))
    assert schedule.text == "CRCR"


def test_a_new_network_corrects_nothing() -> None:
    actions = ActionSpace.of(2, TIERS)
    observation = torch.randn(5, len(actions.schema()), generator=torch.Generator().manual_seed(0))

    logits = network_for(actions)(observation)

    assert torch.equal(logits, observation[:, -actions.logits :])


def test_the_observation_has_a_prior_for_every_logit() -> None:
    actions = ActionSpace.of(3, TIERS)

    priors = [name for name in actions.schema() if name.startswith("prior/")]

    assert len(priors) == actions.logits
    assert actions.schema()[-actions.logits :] == tuple(priors)


@given(st.data())
def test_the_best_action_is_feasible_and_none_feasible_is_better(data: st.DataObject) -> None:
    numbers = st.lists(st.floats(-9, 9, width=16), min_size=6, max_size=6)
    logits = np.array([data.draw(numbers)])
    masks = np.array([data.draw(st.lists(st.booleans(), min_size=6, max_size=6))])
    masks[0, [0, 5]] = True

    ((pattern, tier),) = best_actions(logits, masks, 4)

    assert masks[0, pattern]
    assert masks[0, 4 + tier]
    assert logits[0, pattern] == logits[0, :4][masks[0, :4]].max()
    assert logits[0, 4 + tier] == logits[0, 4:][masks[0, 4:]].max()


def test_masks_open_with_what_each_row_knows() -> None:
    walk = Walk(
        controller(1, [0, 0, 0, 0], weight=1.0), random_signals(steps=4, rows=2, sites=1), [0, 1]
    )

    for known in range(4):
        _, masks = walk.__dict__["_controller"]._state.observe(walk.info())
        assert masks[:, :4].tolist() == [[mode == Mode.COMPUTE or known > 0 for mode in Mode]] * 2
        assert masks[0, 4:].tolist() == [True, known > 0]
        walk.step()
        assert walk.histories[0].valid.tolist() == [min(known + 1, HISTORY)] * 2
