from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from ditcache_rl.errors import ArtifactError
from ditcache_rl.policy import Manifest, NetworkUse, Policy
from ditcache_rl.policy.manifest import read_manifest
from ditcache_rl.schedules import Objective, nominal_cost
from ditcache_rl.types import Tier
from tests.kit.policies import FOUND, MANIFEST, same_table, table_of

USE = NetworkUse("0" * 16, ["device", "drop"], {"4": [2]}, adaptive_tradeoff=True)


def best_of(*policies: Policy) -> dict[int, dict[int, str]]:
    """Return the texts of the best schedules, by steps and computes."""
    tables = Policy.best_of(policies).tables
    return {
        steps: {computes: one.schedule.text for computes, one in table.items()}
        for steps, table in tables.items()
    }


def test_the_best_of_every_number_of_computes_is_taken() -> None:
    expected = {
        4: {2: "CR1R | CR1R", 4: "C1C1 | C1C1"},
        6: {3: "CC1211 | C1R211"},
    }

    assert best_of(*FOUND.values()) == expected
    assert best_of(*reversed(FOUND.values())) == expected
    best = Policy.best_of(FOUND.values()).tables[4]
    assert [one[1:3] for one in best.values()] == [(20.0, 0.8), (31.0, 0.9)]


def test_the_best_of_one_policy_is_that_policy() -> None:
    policy = FOUND["dp"]

    best = Policy.best_of([policy])

    assert best.manifest == policy.manifest
    assert best.steps == [4, 6]
    assert all(same_table(best.tables[steps], policy.tables[steps]) for steps in best.steps)


@pytest.mark.parametrize(
    ("objective", "text"), [((1.0, 1.0), "CC11"), ((1.0, 0.0), "CC11"), ((0.0, 1.0), "C1C1")]
)
def test_the_objective_says_which_one_is_better(objective: tuple[float, float], text: str) -> None:
    manifest = replace(MANIFEST, sites=1, objective=Objective(*objective)._asdict())
    one = Policy(manifest, {4: table_of(("CC11", 30.0, 0.5))})
    other = Policy(manifest, {4: table_of(("C1C1", 25.0, 0.9))})

    assert best_of(one, other) == best_of(other, one) == {4: {2: text}}


def test_policies_that_are_compared_stay_as_they_were() -> None:
    before = {name: list(policy.tables[4]) for name, policy in FOUND.items()}

    Policy.best_of(FOUND.values())

    assert {name: list(policy.tables[4]) for name, policy in FOUND.items()} == before
    assert FOUND["climb"].steps == [4]


def test_a_policy_knows_its_steps_prices_and_objective() -> None:
    manifest = replace(MANIFEST, objective={"psnr": 2.0, "ssim": 3.0})
    policy = Policy(manifest, FOUND["dp"].tables)

    assert policy.steps == [4, 6]
    assert policy.cost == nominal_cost(4, 2)
    assert policy.objective == Objective(2.0, 3.0)


@pytest.mark.parametrize("manifest", [MANIFEST, replace(MANIFEST, network=USE)])
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    assert read_manifest(asdict(manifest), "here") == manifest


def test_the_actions_of_a_network_follow_from_its_manifest() -> None:
    actions = replace(MANIFEST, network=USE).actions

    assert actions.patterns.shape[1] == MANIFEST.sites
    assert actions.tiers == (Tier.DEVICE, Tier.DROP)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": 257}, r"here: sites must be an integer in \[1, 256\], received 257"),
        ({"objective": {"psnr": 1.0, "ssim": 1.0, "lpips": 1.0}}, "here: objective must have"),
        ({"network": asdict(USE) | {"tiers": ["moon"]}}, "here: tiers must be among"),
        ({"network": asdict(USE) | {"adaptive": []}}, "here: network: adaptive must be"),
        ({"network": []}, r"here: network: expected an object, received \[\]"),
        ({"tiers": []}, "here: unknown field 'tiers'"),
    ],
)
def test_a_manifest_that_is_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_manifest(asdict(MANIFEST) | changes, "here")


def test_a_schedule_that_was_scored_is_better_than_one_that_was_not() -> None:
    manifest = replace(MANIFEST, sites=1)
    scored = Policy(manifest, {4: table_of(("CC11", 3.0, 0.1))})
    unknown = Policy(manifest, {4: table_of(("C1C1", np.nan, np.nan))})

    assert best_of(scored, unknown) == best_of(unknown, scored) == {4: {2: "CC11"}}
