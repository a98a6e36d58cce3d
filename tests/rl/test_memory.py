"""Where memory is priced, placement is a decision: its price by hand, and what it never changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ditcache_rl.bench import MemoryWorld, cases_of
from ditcache_rl.bench import draw as bench_draw
from ditcache_rl.cache import TieredCache
from ditcache_rl.cache.rates import Transfers
from ditcache_rl.control import NetworkController, PolicyNetwork, StaticSchedule, best_actions
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.rl import Episodes, Scenario, Task
from ditcache_rl.rl.episodes import Outcome
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Decision, Modes, RunInfo, StepInfo, Tier, Tiers
from tests.kit.environment import tiny_config, tiny_scenario
from tests.kit.pipelines import draw

STEPS, SITES = 4, 2
#: Of computing a site: a load of the host costs 0.4 of it, one of the disk 0.9.
TRANSFERS = Transfers(host_put=0.4, host_get=0.4, disk_put=0.8, disk_get=0.9)
ROOM = {Tier.DEVICE: 8, Tier.HOST: 16, Tier.DISK: 16}
#: Both sites compute at every second step, and are reused in between.
HALF = Schedule(np.array([[0, 0], [1, 1]] * 2, dtype=np.int8))
TIERS = ', tiers = ["device", "host", "disk", "drop"], device_bytes = "1MiB", host_bytes = "1MiB"'


def priced_scenario(
    pipe: Any, call: dict[str, Any], folder: Path, memory_weight: float, **world: Any
) -> Scenario:
    """An environment in which only time and memory count."""
    tiers = TIERS.replace(', device_bytes = "1MiB"', "")
    config = tiny_config(
        folder,
        call,
        sites=SITES,
        steps=(STEPS,),
        tiers=tiers,
        budgets=(0.5,),
        tradeoff_share=0.0,
        world=f"memory_weight = {memory_weight}, wait_weight = 1.0",
    )
    config = replace(config, reward=replace(config.reward, psnr=0.0, ssim=0.0))
    scenario = tiny_scenario(config, pipe)
    options = {"room": ROOM, "transfers": TRANSFERS} | world
    scenario.memory = MemoryWorld(scenario.cost, **options)
    return scenario


def kept_in(tier: Tier) -> Schedule:
    return replace(HALF, tiers=np.full((STEPS, SITES), tier, dtype=np.int8))


def returns(scenario: Scenario, task: Task) -> dict[Tier, float]:
    """Return what always keeping in one tier earns."""
    return {tier: float(scenario.followed([task], [kept_in(tier)]).total[0]) for tier in ROOM} | {
        Tier.DROP: float(scenario.followed([task], [kept_in(Tier.DROP)]).total[0])
    }


def test_returns_of_tiers_are_ordered_as_arithmetic_by_hand_says(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    cheap = priced_scenario(tiny_pipe, tiny_call, tmp_path / "cheap", 0.2)
    dear = priced_scenario(tiny_pipe, tiny_call, tmp_path / "dear", 1.0)
    task = Task(cases_of(cheap.config, "train")[0], HALF.computes, 0.0)

    # A site takes half a second, full compute four. Two entries lie on the device while two full
    # steps of one second run: 2 * 2 * 1 / (2 * 4) = 0.5. Writing is hidden behind computing; two
    # loads at each of two other steps are not: 4 * 0.4 * 0.5 / 4 = 0.2, and 4 * 0.9 * 0.5 / 4.
    # What is dropped is computed, all of it.
    assert returns(cheap, task) == pytest.approx(
        {
            Tier.DEVICE: -0.5 - 0.2 * 0.5,
            Tier.HOST: -0.5 - 0.2,
            Tier.DISK: -0.5 - 0.45,
            Tier.DROP: -1.0,
        }
    )
    assert returns(dear, task) == pytest.approx(
        {
            Tier.DEVICE: -0.5 - 1.0 * 0.5,
            Tier.HOST: -0.5 - 0.2,
            Tier.DISK: -0.5 - 0.45,
            Tier.DROP: -1.0,
        }
    )
    by_worth = sorted(TIERS_OF, key=lambda tier: -returns(cheap, task)[tier])
    assert by_worth == [Tier.DEVICE, Tier.HOST, Tier.DISK, Tier.DROP]


TIERS_OF = (Tier.DROP, Tier.DISK, Tier.HOST, Tier.DEVICE)


def play(
    scenario: Scenario, tasks: list[Task], tier: Tier | None = None, seed: int = 0
) -> tuple[Outcome, list[NDArray[np.int64]]]:
    """Play a batch: patterns as the schedules want, and one tier always, or any."""
    episodes, rng = Episodes(scenario), np.random.default_rng(seed)
    patterns, outcome, played = len(scenario.actions.patterns), None, []
    episodes.begin(tasks)
    while outcome is None:
        prior = episodes.observation[:, -scenario.actions.logits :]
        actions = best_actions(prior, episodes.masks, patterns)
        if tier is None:
            allowed = episodes.masks[:, patterns:]
            actions[:, 1] = [rng.choice(np.flatnonzero(one)) for one in allowed]
        else:
            actions[:, 1] = scenario.actions.tiers.index(tier)
        played.append(actions)
        outcome = episodes.act(actions)
    return outcome, played


@pytest.mark.parametrize(
    ("tier", "wait", "resident"),
    # Online, the older entry of a site stays, as it might be forecast with: four lie on the device
    # while the second full step runs.
    [(Tier.DEVICE, 0.0, (2 + 4) / 8), (Tier.HOST, 0.2, 0.0)],
)
def test_an_agent_pays_for_what_it_keeps(
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tmp_path: Path,
    tier: Tier,
    wait: float,
    resident: float,
) -> None:
    scenario = priced_scenario(tiny_pipe, tiny_call, tmp_path, 0.7)
    scenario.table = type(scenario.table).of(scenario.table.sigmas, [HALF])
    tasks = [Task(case, HALF.computes, 0.0) for case in cases_of(scenario.config, "train")]

    outcome, _ = play(scenario, tasks, tier)

    assert outcome.terms.latency == pytest.approx(-0.5 - wait)
    assert outcome.terms.memory == pytest.approx(-0.7 * resident)
    assert outcome.info(0)["reward/memory"] == outcome.terms.memory[0]


class Replayed:
    """Decides as an episode did, and moves the cap of a real store as its world did."""

    probe_blocks = 0

    def __init__(
        self, cache: TieredCache, caps: list[int], steps: list[tuple[Modes, Tiers]]
    ) -> None:
        self._cache, self._caps, self._steps = cache, caps, steps

    def reset(self, run: RunInfo) -> None:
        """Nothing belongs to the request."""

    def decide(self, info: StepInfo) -> Decision:
        """Take the step that was recorded."""
        self._cache.resize(Tier.DEVICE, self._caps[info.step])
        modes, tiers = self._steps[info.step]
        return Decision(modes[None], tiers[None])


@pytest.mark.parametrize("host", [True, False])
def test_under_caps_that_move_images_are_those_of_the_same_modes(
    tiny_pipe: Any, host: bool
) -> None:
    rng, sites = np.random.default_rng(3), 2
    for _ in range(4):
        steps = 6
        modes = rng.integers(3, size=(steps, sites)).astype(np.int8)
        modes[0] = 0
        tiers = rng.integers(2, size=(steps, sites)).astype(np.int8)
        free, log = _drawn(tiny_pipe, TieredCache(), [10**9] * steps, modes, tiers)
        assert (log.modes[:, 0] == modes).any()
        caps = [int(cap) * log.peak_bytes // 4 for cap in rng.integers(4, size=steps)]
        store = TieredCache(caps[0], 1 << 22 if host else None)
        capped, short = _drawn(tiny_pipe, store, caps, modes, tiers)
        again = StaticSchedule(Schedule(np.asarray(short.modes[:, 0])))
        with BlockRunner(tiny_pipe, again, TieredCache(), sites=sites):
            expected = draw(tiny_pipe, steps=steps)

        assert torch.equal(capped, expected)
        if host:  # there is room for all of it
            assert torch.equal(capped, free)


def _drawn(
    pipe: Any, cache: TieredCache, caps: list[int], modes: Modes, tiers: Tiers
) -> tuple[Any, RequestLog]:
    logs: list[RequestLog] = []
    replayed = Replayed(cache, caps, list(zip(modes, tiers, strict=True)))
    try:
        with BlockRunner(pipe, replayed, cache, sites=modes.shape[1], on_finish=logs.append):
            image = draw(pipe, steps=len(modes))
    finally:
        cache.close()
    return image, logs[0]


@pytest.mark.parametrize("host", [0, 3])
def test_an_episode_is_what_a_store_with_its_caps_draws(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path, host: int
) -> None:
    room = {Tier.DEVICE: 4} | ({Tier.HOST: host} if host else {})
    scenario = priced_scenario(
        tiny_pipe, tiny_call, tmp_path, 0.1, room=room, caps=[1.0, 0.5, 0.0], dwell_steps=1.5
    )
    board, memory = scenario.board, scenario.memory
    assert memory is not None
    lost = 0
    for seed in range(6):
        case = cases_of(scenario.config, "train")[seed % 3]
        task = Task(case, HALF.computes, 0.0, world=seed)
        outcome, played = play(scenario, [task], seed=seed)
        chosen = np.stack(played)[:, 0]
        modes = scenario.actions.patterns[chosen[:, 0]]
        names = np.array(scenario.actions.tiers, dtype=np.int8)
        tiers = np.tile(names[chosen[:, 1]][:, None], (1, SITES))
        caps = [int(cap) * board.entry_bytes for cap in memory.moves(seed)]
        store = TieredCache(4 * board.entry_bytes, host * board.entry_bytes or None)
        replayed = Replayed(store, caps, list(zip(modes, tiers, strict=True)))
        try:
            drawn = bench_draw(
                board.pipe, [case], replayed, steps=STEPS, call=board.call, sites=SITES, cache=store
            )
        finally:
            store.close()

        assert drawn.log is not None
        assert np.array_equal(drawn.log.modes, outcome.modes)
        assert torch.equal(drawn.images, outcome.images)
        lost += int((drawn.log.modes[:, 0] != modes).sum())
    assert host or lost, "caps took something away"


class UnderCaps:
    """Another controller, on a real store whose cap moves as a world says."""

    probe_blocks = 0

    def __init__(self, cache: TieredCache, caps: list[int], controller: NetworkController) -> None:
        self._cache, self._caps, self._controller = cache, caps, controller

    def reset(self, run: RunInfo) -> None:
        """Begin."""
        self._controller.reset(run)

    def decide(self, info: StepInfo) -> Decision:
        """Move the cap, then ask."""
        self._cache.resize(Tier.DEVICE, self._caps[info.step])
        return self._controller.decide(info)


def test_a_network_serves_on_a_store_as_it_plays_in_its_world(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    room = {Tier.DEVICE: 4, Tier.HOST: 2}
    scenario = priced_scenario(
        tiny_pipe, tiny_call, tmp_path, 0.1, room=room, caps=[1.0, 0.5, 0.0], dwell_steps=1.5
    )
    board, memory, actions = scenario.board, scenario.memory, scenario.actions
    assert memory is not None
    torch.manual_seed(5)
    network = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits)
    torch.nn.init.normal_(network.head.weight, std=4.0)
    host, chosen = network.on_host(), set()
    for seed in range(4):
        task = Task(cases_of(scenario.config, "train")[seed % 3], 4, 0.0, world=seed)
        episodes, outcome = Episodes(scenario), None
        episodes.begin([task])
        while outcome is None:
            logits = host(episodes.observation)
            action = best_actions(logits, episodes.masks, len(actions.patterns))
            chosen.add(tuple(action[0]))
            outcome = episodes.act(action)
        store = TieredCache(4 * board.entry_bytes, 2 * board.entry_bytes)
        caps = [int(cap) * board.entry_bytes for cap in memory.moves(seed)]
        served = NetworkController(
            actions, network, schedule=scenario.scheduled(task), computes=4, latency_weight=0.0
        )
        try:
            drawn = bench_draw(
                board.pipe,
                [task.case],
                UnderCaps(store, caps, served),
                steps=STEPS,
                call=board.call,
                sites=SITES,
                cache=store,
            )
        finally:
            store.close()

        assert drawn.log is not None
        assert np.array_equal(drawn.log.modes, outcome.modes)
        assert torch.equal(drawn.images, outcome.images)
    assert len({tier for _, tier in chosen}) > 1, "a network that always keeps in one tier"
