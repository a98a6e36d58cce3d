import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.learned import ablated
from benchmarks.learned.ablated import (
    FAMILIES,
    GROUP,
    VARIANTS,
    Variant,
    grouped,
    train,
    weak_scenario,
)
from ditcache_rl.bench import cases_of
from ditcache_rl.config import AgentConfig
from ditcache_rl.control import ActionSpace
from ditcache_rl.rl import Scenario
from ditcache_rl.types import Tier
from tests.kit.environment import tiny_config

NAMES = ActionSpace.of(1, (Tier.DEVICE,)).schema()


@pytest.fixture(scope="module")
def scenario(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scenario]:
    """A scenario of all variants: references and baselines are drawn once."""
    agent = AgentConfig(rows=4, settings={"batch_size": 32, "n_epochs": 2})
    config = replace(tiny_config(tmp_path_factory.mktemp("env"), tiny_call), steps=[6])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablated, "AGENT", agent)
        yield weak_scenario(config, tiny_pipe)


def test_every_feature_is_in_one_family() -> None:
    assert all(
        sum(name.startswith(beginnings) for beginnings in FAMILIES.values()) == 1 for name in NAMES
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hidden_family_reads_zero_and_nothing_else_does(family: str) -> None:
    hidden = Variant(hidden=family).shown(NAMES) == 0

    assert (hidden == [name.startswith(FAMILIES[family]) for name in NAMES]).all()
    assert Variant().shown(NAMES).all()


def test_groups_are_centred_one_by_one() -> None:
    returns = np.arange(2.0 * GROUP) ** 2

    centred = grouped(returns, np.zeros_like(returns))

    np.testing.assert_allclose(centred[:GROUP].mean(), 0)
    np.testing.assert_allclose(centred[GROUP:].mean(), 0)
    np.testing.assert_array_equal(np.diff(centred[:GROUP]), np.diff(returns[:GROUP]))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_is_judged_at_every_budget(scenario: Scenario, name: str) -> None:
    seen, judged = cases_of(scenario.config, "train"), cases_of(scenario.config, "select")

    found = train(scenario, seen, judged, VARIANTS[name], 16, seed=1)

    assert len(found.gain_db) == len(ablated.COMPUTES)
    assert len(found.curve_db) == 1  # a rollout of four batches of four rows
    assert np.isfinite(found.gain_db + found.curve_db).all()
    if name in ("default", "plain"):  # of each algorithm one
        assert train(scenario, seen, judged, VARIANTS[name], 16, seed=1) == found
    json.dumps(found._asdict())
