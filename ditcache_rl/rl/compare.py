"""Compare a trained network with the static schedules that it started from, on unseen prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ditcache_rl.bench import Board, Case, named_computes
from ditcache_rl.control import PolicyNetwork, best_actions
from ditcache_rl.interval import Interval, mean_interval
from ditcache_rl.rl.episodes import Episodes
from ditcache_rl.rl.scenario import BareScenario, Scenario, Task
from ditcache_rl.types import Floats, Tick

#: Weights on latency at which a tradeoff is compared with its static schedule, as places in their
#: range.
_TRADEOFF_PLACES = (0.15, 0.5, 0.85)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The network against the static schedule of the same target, paired by prompt and seed."""

    name: str
    static_psnr_db: float
    static_p5_db: float
    psnr_db: float
    p5_db: float
    gain: Interval
    """Of PSNR in dB at given computes, of the return under a tradeoff or where memory is priced."""

    @property
    def significant(self) -> bool:
        """Whether the interval lies above zero."""
        return self.gain.low > 0

    def to_dict(self, *, used: bool) -> dict[str, Any]:
        """Return plain numbers for JSON, and whether the policy decides with the network."""
        return {
            "target": self.name,
            "n": self.gain.n,
            "static_psnr_db": {"mean": self.static_psnr_db, "p5": self.static_p5_db},
            "network_psnr_db": {"mean": self.psnr_db, "p5": self.p5_db},
            "gain": self.gain.mean,
            "ci95": self.gain.ends,
            "network_used": used,
        }


def compare(
    scenario: Scenario, network: PolicyNetwork, cases: Sequence[Case], *, tick: Tick
) -> dict[tuple[int, float], Comparison]:
    """Compare network and static schedule at every target, on prompts that neither has seen.

    Returns:
        By site computes and weight on latency, one of them zero.
    """
    targets = targets_of(scenario)
    found: dict[tuple[int, float], Comparison] = {}
    for index, ((computes, weight), name) in enumerate(targets.items()):
        tasks = [Task(case, computes, weight, case.seed) for case in cases]
        schedule = scenario.scheduled(tasks[0])
        static_psnr = scenario.static(cases, [schedule] * len(cases)).psnr_db
        static_return = scenario.returns(scenario.baseline(tasks))
        psnr, returns = play(scenario, network, tasks)
        quality_alone = computes and scenario.memory is None
        gains = psnr - static_psnr if quality_alone else returns - static_return
        found[computes, weight] = Comparison(
            name,
            float(static_psnr.mean()),
            float(np.percentile(static_psnr, 5)),
            float(psnr.mean()),
            float(np.percentile(psnr, 5)),
            mean_interval(gains),
        )
        tick((index + 1) / len(targets), f"{name}: {gains.mean():+.2f}")
    return found


def targets_of(scenario: Scenario) -> dict[tuple[int, float], str]:
    """Name the targets of a comparison: site computes and weight on latency, one of them zero."""
    config, site_steps = scenario.config, scenario.table.site_steps
    low, high = config.reward.latency_weights
    counts = named_computes(config, scenario.board.steps)
    tradeoffs = [low + place * (high - low) for place in _TRADEOFF_PLACES]
    return {(computes, 0.0): f"{computes}/{site_steps}" for computes in counts} | {
        (0, weight): f"tradeoff {weight:.2f}" for weight in tradeoffs
    }


def play(
    scenario: Scenario, network: PolicyNetwork, tasks: Sequence[Task]
) -> tuple[Floats, Floats]:
    """Return PSNR and return of every task, with the best action of a network at every step."""
    board, cases = scenario.board, [task.case for task in tasks]
    board.prepare(cases)
    one = partial(_played, scene=BareScenario.of(scenario), network=network)
    parts = board.spread(one, board.parts(cases, tasks))
    psnr, returns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return psnr, returns


def _played(
    board: Board,
    cases: Sequence[Case],
    tasks: Sequence[Task],
    *,
    scene: BareScenario,
    network: PolicyNetwork,
) -> tuple[Floats, Floats]:
    """Play a part of the tasks, whose cases are those."""
    scenario, choose = scene.on(board), network.on_host()
    episodes, outcome = Episodes(scenario), None
    episodes.begin(tasks)
    while outcome is None:
        logits = choose(episodes.observation)
        best = best_actions(logits, episodes.masks, len(scenario.actions.patterns))
        outcome = episodes.act(best)
    return outcome.quality.psnr_db, outcome.returns


def used_at(comparisons: Mapping[tuple[int, float], Comparison]) -> set[tuple[int, float]]:
    """Return the targets at which a policy decides with the network: where its gain is significant.

    A tradeoff may be any number, so it decides under all that were compared, or under none.
    """
    better = {target for target, found in comparisons.items() if found.significant}
    tradeoffs = {target for target in comparisons if not target[0]}
    return better if tradeoffs <= better else better - tradeoffs


def metrics_of(comparisons: Mapping[tuple[int, float], Comparison]) -> list[dict[str, Any]]:
    """Return the comparisons for JSON."""
    used = used_at(comparisons)
    return [found.to_dict(used=target in used) for target, found in comparisons.items()]
