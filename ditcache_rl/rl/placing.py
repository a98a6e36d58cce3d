"""Where schedules keep what they compute: chosen beforehand, and compared with simpler choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ditcache_rl.bench import Board, Case, MemoryWorld, named_computes, transfers_of
from ditcache_rl.bench.run import read_kept
from ditcache_rl.cache.rates import Transfers
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import ArtifactError
from ditcache_rl.files import fits, parse_json, read_bytes, write_json
from ditcache_rl.interval import mean_interval
from ditcache_rl.policy import Policy
from ditcache_rl.rl.compare import play, targets_of
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.stages import read_table, write_table
from ditcache_rl.schedules import CostModel, ScheduleTable
from ditcache_rl.search import charge_in, place
from ditcache_rl.types import Floats, Tick

#: Worlds that tiers are chosen in, and others that judge the choice; a schedule takes seconds.
_CHOSEN_IN, _JUDGED_IN = 48, 256
_MOST_BYTES = 1 << 16


def memory_stage(
    config: EnvConfig, board: Board, cost: CostModel, *, file: Path
) -> MemoryWorld | None:
    """Set up the memory of an environment; what was measured stays the same after a resumption."""
    if not config.world.prices_memory:
        return None

    def read(kept: Path) -> Transfers:
        raw = parse_json(read_bytes(kept, _MOST_BYTES))
        if not fits(raw, list[float]) or len(raw) != len(Transfers._fields):
            raise ArtifactError("transfers of something else")
        return Transfers(*raw)

    if not file.exists():
        write_json(file, list(transfers_of(config, board, cost)))
    return MemoryWorld.of(config, board, cost, read_kept(file, read))


def tiers_stage(scenario: Scenario, *, file: Path, seed: int, tick: Tick) -> ScheduleTable:
    """Choose tiers for the schedules of a table, where any are better than the cache's own choice.

    Up to half of full compute: above, there is little to keep.
    """
    memory, world, table = scenario.memory, scenario.config.world, scenario.table
    if memory is None:
        return table
    if file.exists():
        return read_table(file, scenario.board)
    seeds = np.random.default_rng(seed).integers(2**31, size=_CHOSEN_IN + _JUDGED_IN).tolist()
    charge, judge = (
        charge_in(memory, part, wait_weight=world.wait_weight, memory_weight=world.memory_weight)
        for part in (seeds[:_CHOSEN_IN], seeds[_CHOSEN_IN:])
    )
    most = max(table.site_steps // 2, named_computes(scenario.config, table.steps)[-1])
    counts = [computes for computes in table if computes <= most]
    lines = {}
    for index, computes in enumerate(counts):
        placed = place(table[computes].schedule, scenario.config.tiers, charge, judge)
        lines[computes] = table[computes]._replace(schedule=placed)
        tick((index + 1) / len(counts), f"{computes}/{table.site_steps}")
    table = table.with_lines(lines)
    write_table(file, table)
    return table


class Standing(NamedTuple):
    """What the policy earns at one target, beside what simpler placements do; paired by case."""

    target: str
    ships: str
    """What the policy places with: "network", "schedule", or "cache"."""
    returns: Mapping[str, Floats]
    """(cases,) by who places: "policy", "cache" (which guesses), and a tier's name, which is
    always asked for by a schedule that the cache knows; on the device that is Belady."""

    @property
    def fixed(self) -> str:
        """The best of the tiers."""
        names = [name for name in self.returns if name not in ("policy", "cache")]
        return max(names, key=lambda name: float(self.returns[name].mean()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        gain = mean_interval(self.returns["policy"] - self.returns[self.fixed])
        return {
            "target": self.target,
            "ships": self.ships,
            "n": gain.n,
            "returns": {name: float(values.mean()) for name, values in self.returns.items()},
            "best_fixed": self.fixed,
            "over_fixed": gain.mean,
            "over_fixed_ci95": gain.ends,
        }


def standings(scenario: Scenario, cases: Sequence[Case], policy: Policy) -> list[Standing]:
    """Let the policy, every tier alone, and the cache by itself play the same cases and worlds.

    Args:
        scenario: In which memory is priced, with the schedules of the policy.
        cases: Whose seeds are also those of the worlds.
        policy: Made for these steps.
    """
    use, network = policy.manifest.network, policy.network
    adaptive = [] if use is None else use.adaptive.get(str(scenario.board.steps), [])
    found = []
    for target, name in targets_of(scenario).items():
        tasks = [Task(case, *target, case.seed) for case in cases]
        schedule = scenario.scheduled(tasks[0])
        bare = replace(schedule, tiers=None)
        returns = {"cache": scenario.followed(tasks, [bare] * len(tasks), known=False).total}
        for tier in scenario.config.tiers:
            always = replace(bare, tiers=np.full_like(bare.modes, tier))
            returns[tier.name.lower()] = scenario.followed(tasks, [always] * len(tasks)).total
        ships = "cache" if schedule.tiers is None else "schedule"
        returns["policy"] = scenario.baseline(tasks).total
        uses = target[0] in adaptive if target[0] else use is not None and use.adaptive_tradeoff
        if network is not None and uses:
            ships, returns["policy"] = "network", play(scenario, network, tasks)[1]
        found.append(Standing(name, ships, returns))
    return found
