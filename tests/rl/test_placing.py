"""Tiers that are chosen beforehand, and what becomes of them in a policy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.bench import MemoryWorld
from ditcache_rl.bench.world import transfers_of
from ditcache_rl.cache.rates import Transfers
from ditcache_rl.config import load_env
from ditcache_rl.pipelines import open_configured
from ditcache_rl.policy import load_policy
from ditcache_rl.rl.placing import memory_stage
from ditcache_rl.rl.train import TrainOptions, train
from ditcache_rl.schedules import Schedule, nominal_cost
from ditcache_rl.search import charge_in, place
from ditcache_rl.types import Tier
from tests.kit.environment import tiny_config, tiny_scenario, write_env

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")

#: Of one site: read at once after its first compute, and three steps long after its second.
UNEVEN = Schedule(np.array([[0], [1], [0], [1], [1], [1]], dtype=np.int8))
ROOM = {Tier.DEVICE: 4, Tier.HOST: 4}


def world(transfers: Transfers, **options: Any) -> MemoryWorld:
    return MemoryWorld(nominal_cost(6, 1), ROOM, transfers, **options)


def chosen(memory: MemoryWorld, memory_weight: float, tiers: tuple[Tier, ...]) -> Schedule:
    charge, judge = (
        charge_in(memory, seeds, wait_weight=1.0, memory_weight=memory_weight)
        for seeds in (range(4), range(4, 12))
    )
    return place(UNEVEN, tiers, charge, judge)


def test_tiers_are_chosen_where_they_pay_and_nowhere_else() -> None:
    # A compute takes a step. The device is charged for one step after each compute, a sixth of the
    # time: reading costs 0.1 once after the first, and three times after the second. So the first
    # entry is dear on the device from 0.1 on, the second from 0.3 on.
    memory = world(Transfers(host_put=0.1, host_get=0.1))
    tiers = (Tier.DEVICE, Tier.HOST, Tier.DROP)

    assert chosen(memory, 0.05, tiers).tiers is None, "the cache by itself is as good"
    between, dear = chosen(memory, 0.2, tiers).tiers, chosen(memory, 0.4, tiers).tiers
    assert between is not None
    assert dear is not None
    assert between[[0, 2], 0].tolist() == [Tier.HOST, Tier.DEVICE]
    assert dear[[0, 2], 0].tolist() == [Tier.HOST, Tier.HOST]


def test_a_choice_that_other_worlds_do_not_confirm_is_not_made() -> None:
    memory = world(Transfers(host_put=0.1, host_get=0.1))
    charge = charge_in(memory, range(4), wait_weight=1.0, memory_weight=0.4)
    judge = charge_in(memory, range(4), wait_weight=1.0, memory_weight=0.0)

    assert place(UNEVEN, (Tier.DEVICE, Tier.HOST), charge, judge).tiers is None


WORLD = 'transfers = "h100", memory_weight = 50.0, caps = [1.0, 0.5], wait_weight = 4.0'
CACHE = ', tiers = ["device", "host", "drop"], host_bytes = "1MiB"'


def test_measured_transfers_are_kept_for_a_resumption(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(
        tmp_path, tiny_call, sites=2, steps=(4,), tiers=CACHE, world='transfers = "measured"'
    )
    scenario = tiny_scenario(config, tiny_pipe)
    found = transfers_of(config, scenario.board, scenario.cost)
    first, second = (
        memory_stage(config, scenario.board, scenario.cost, file=tmp_path / "transfers.json")
        for _ in range(2)
    )

    assert found.host_put > 0 < found.host_get
    assert (found.disk_put, found.disk_get) == (0.0, 0.0)
    assert first is not None
    assert first == second


def test_a_policy_ships_its_tiers_and_says_who_places(
    tiny_folder: Path, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = write_env(
        tmp_path / "env",
        tiny_call,
        source=str(tiny_folder),
        sites=2,
        steps=(4,),
        budgets=(0.5,),
        tradeoff_share=0.0,
        device_bytes="64KiB",
        tiers=CACHE,
        world=WORLD,
    )
    config = load_env(env)
    out = tmp_path / "policy"
    options = TrainOptions(
        run=tmp_path / "run", out=out, replace=False, seed=1, command="python train.py"
    )

    train(config, options)

    policy = load_policy(out)
    assert policy.manifest.network is not None
    assert policy.manifest.network.memory
    tiers = policy.tables[4][4].schedule.tiers
    assert tiers is not None, "the device costs fifty times what waiting does"
    assert (tiers[0] == Tier.HOST).all()
    (at_half, *_) = policy.metrics["tiers"]
    assert at_half["ships"] in ("schedule", "network")
    returns = at_half["returns"]
    assert returns["policy"] >= returns["host"] > returns["device"] > returns["cache"]
    card = (out / "README.md").read_text()
    assert "## Tiers" in card
    assert f"| 4/8 | {at_half['returns']['cache']:.3f} |" in card

    pipe = open_configured(config.pipeline)
    memory = dc.Memory(device="1MiB", host="1MiB")
    with dc.cached(pipe, replace(policy, network=None), budget=0.5, memory=memory) as run:
        pipe("a", num_inference_steps=4, generator=torch.Generator().manual_seed(0), **tiny_call)
    assert run.cache.stats.host_hits > 0 == run.cache.stats.device_hits
