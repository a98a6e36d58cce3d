"""What workers on Ray make of the same work: batches played, and their baselines scored."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import best_actions
from ditcache_rl.rl.fleet import Fleet
from ditcache_rl.rl.fleet_episodes import FleetEpisodes
from ditcache_rl.rl.scenario import Scenario, Task


class RoundTimes(NamedTuple):
    """Seconds of one round of a number of workers."""

    played_s: float
    scored_s: float

    @property
    def total_s(self) -> float:
        """Both."""
        return self.played_s + self.scored_s


def scenarios_on(fleets: Mapping[int, Fleet], config: EnvConfig) -> dict[int, Scenario]:
    """Set up a scenario on every fleet, by its number of workers; references are drawn once."""
    plain = Scenario.nominal(config)
    return {count: _on(fleet, plain) for count, fleet in fleets.items()}


def _on(fleet: Fleet, plain: Scenario) -> Scenario:
    board = Board.of(plain.config, plain.board.pipe, steps=plain.board.steps, crew=fleet)
    return Scenario(plain.config, board, plain.cost, plain.table, plain.memory, plain.hooks)


def pin(fleet: Fleet) -> None:
    """Give every worker a core of its own, as far as there are some."""
    cores = sorted(os.sched_getaffinity(0))
    fleet.answers(
        [
            (number, actor.__ray_call__.remote(_pinned, cores[number % len(cores)]))
            for number, actor in enumerate(fleet._actors)
        ]
    )


def _pinned(worker: Any, core: int) -> None:
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def tasks_of(scenario: Scenario, rows: int) -> list[Task]:
    """Draw the tasks of a batch; every round has them again, and so the same work."""
    cases, rng = cases_of(scenario.config, "train")[:rows], np.random.default_rng(0)
    return [Task.drawn(scenario, [cases[row % len(cases)]], rng) for row in range(rows)]


def rounds_of(
    scenarios: Mapping[int, Scenario], *, rows: int, rounds: int
) -> dict[int, list[RoundTimes]]:
    """Let every number of workers have its turn in every round.

    Rows follow their schedules, as they do when a training begins, and the same images are drawn
    once more to score the schedules.
    """
    found: dict[int, list[RoundTimes]] = {count: [] for count in scenarios}
    for scenario in scenarios.values():
        _round(scenario, tasks_of(scenario, rows))  # opens pipelines, draws references
    for number in track(range(rounds), description="rounds"):
        order = list(scenarios)[:: 1 if number % 2 else -1]
        for count in order:
            found[count].append(_round(scenarios[count], tasks_of(scenarios[count], rows)))
    return found


def _round(scenario: Scenario, tasks: list[Task]) -> RoundTimes:
    board, patterns = scenario.board, len(scenario.actions.patterns)
    assert isinstance(board.crew, Fleet), "made so"
    cases = [task.case for task in tasks]
    board.prepare(cases)
    episodes, outcome = FleetEpisodes(scenario, board.crew), None
    started = time.perf_counter()
    episodes.begin(tasks)
    while outcome is None:
        prior = episodes.observation[:, -scenario.actions.logits :]
        outcome = episodes.act(best_actions(prior, episodes.masks, patterns))
    played = time.perf_counter()
    board.score(cases, [scenario.scheduled(task) for task in tasks])
    return RoundTimes(played - started, time.perf_counter() - played)


def throughput_x(found: Mapping[int, list[RoundTimes]]) -> float:
    """Return the images per second of all workers over those of one: medians over the rounds."""
    alone, together = (
        np.median([one.total_s for one in found[count]]) for count in (min(found), max(found))
    )
    return float(alone / together)
