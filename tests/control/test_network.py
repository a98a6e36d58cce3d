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
from ditcache_rl.errors import BudgetError
from ditcache_rl.schedules.plan import Plan, PlanRow
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
    sites: int, plan: list[int], *, budget: int = 0, weight: float = 0.0, seed: int | None = None
) -> NetworkController:
    actions = ActionSpace.of(sites, TIERS)
    return NetworkController(
        actions,
        network_for(actions, seed=seed),
        plan=PlanRow.unfitted(np.array(plan)),
        budget=budget,
        latency_weight=weight,
    )


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize(("budget", "weight"), [(5, 0.0), (0, 1.0)])
@pytest.mark.parametrize("sites", [1, 2])
def test_a_network_controller_is_a_controller(
    sites: int, budget: int, weight: float, seed: int | None
) -> None:
    plan = [0, 1, 0, 2, 1, 0, 3, 1]
    check_controller(
        lambda: controller(sites, plan, budget=budget, weight=weight, seed=seed), sites=sites
    )


def test_its_rows_decide_alone() -> None:
    modes = check_rows_decide_alone(lambda: controller(1, [0] * 12, budget=6, seed=3))

    assert len({modes[:, row].tobytes() for row in range(4)}) > 1


def test_an_untrained_network_follows_its_plan() -> None:
    actions = ActionSpace.of(2, TIERS)
    plan = [0, 1, 4, 2, 0, 5]
    signals = random_signals(steps=6, rows=3, sites=2)

    walk = Walk(controller(2, plan, budget=6), signals, range(3))
    walk.to_the_end()

    for planned, decision in zip(plan, walk.decisions, strict=True):
        assert (decision.modes == actions.patterns[planned]).all()
        assert (decision.tiers == Tier.DEVICE).all()


@given(st.data(), st.integers(1, 3), st.integers(2, 8), st.integers(0, 2**16))
@settings(max_examples=40)
def test_whatever_the_network_says_the_budget_is_spent_exactly(
    data: st.DataObject, sites: int, steps: int, seed: int
) -> None:
    budget = data.draw(st.integers(sites, sites * steps), label="budget")
    signals = random_signals(steps=steps, rows=3, sites=sites, seed=seed)
    decides = controller(sites, [0] * steps, budget=budget, seed=seed)

    modes = Walk(decides, signals, range(3)).to_the_end()

    assert ((modes == Mode.COMPUTE).sum(axis=(0, 2)) == budget).all()


@given(st.integers(0, 2**16))
@settings(max_examples=20)
def test_the_first_residual_is_always_kept(seed: int) -> None:
    signals = random_signals(steps=3, rows=3, sites=1, seed=seed)
    walk = Walk(controller(1, [0] * 3, weight=1.0, seed=seed), signals, range(3))

    walk.to_the_end()

    assert (walk.decisions[0].tiers == Tier.DEVICE).all()


def test_a_request_does_not_change_the_network_or_the_plan() -> None:
    decides = controller(1, [0, 1, 0, 1], budget=2, seed=3)
    network = decides.__dict__["_network"]
    before = copy.deepcopy(network.layers)
    signals = random_signals(steps=4, rows=2, sites=1)

    Walk(decides, signals, range(2)).to_the_end()

    for layer, then in zip(network.layers, before, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(layer, then, strict=True))


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


def test_a_plan_gives_the_schedule_of_the_largest_budget_that_is_not_above() -> None:
    patterns = np.full((7, 3), -1)
    patterns[2], patterns[4] = [0, 1, 1], [0, 0, 1]
    plan = Plan.unfitted(patterns)

    assert plan.least == 2
    assert [plan.row(budget).patterns.tolist() for budget in (2, 3, 4, 6)] == [
        [0, 1, 1],
        [0, 1, 1],
        [0, 0, 1],
        [0, 0, 1],
    ]
    with pytest.raises(BudgetError, match="at least 2 site computes, received 1"):
        plan.row(1)


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
