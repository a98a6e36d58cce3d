"""Episodes of denoising: what the single and the vectorised environment share.

A batch of tasks is one call of the pipeline in a worker thread. Every row decides for itself; all
rows end together, with a terminal reward each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.bench import Drawn, ImageMemory, Quality, bill_of
from ditcache_rl.control import ActionSpace, ActionState, Controller
from ditcache_rl.control.observation import Observation, RowTargets
from ditcache_rl.errors import StateError
from ditcache_rl.instrument import RequestLog
from ditcache_rl.rl.reward import RewardTerms
from ditcache_rl.rl.rollout import Finished, Rollout
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.types import Decision, Mode, StepInfo, Tier


class Outcome(NamedTuple):
    """A finished batch."""

    tasks: Sequence[Task]
    images: Tensor
    quality: Quality
    terms: RewardTerms
    log: RequestLog

    def info(self, row: int) -> dict[str, float]:
        """Name the numbers of one row, for `info` of an environment."""
        return {
            "psnr_db": float(self.quality.psnr_db[row]),
            "ssim": float(self.quality.ssim[row]),
            "compute_share": float(self.log.compute_share[row]),
            "reward/psnr": float(self.terms.psnr[row]),
            "reward/ssim": float(self.terms.ssim[row]),
            "reward/latency": float(self.terms.latency[row]),
            "reward/memory": float(self.terms.memory[row]),
        }


class Episodes:
    """One batch of rows after the other: `begin`, then `act` until an outcome comes back."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._state = ActionState(scenario.actions)
        self._rollout: Rollout[Drawn] | None = None
        self._tasks: Sequence[Task] = ()
        #: Memory of every row, where it is priced.
        self._images: list[ImageMemory] = []
        self._masks: NDArray[np.bool_]
        #: (rows, features) of the present step; after the last one still that of the last.
        self.observation: Observation

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(rows, patterns + tiers) what is allowed at the present step.

        Raises:
            StateError: If no batch is running.
        """
        self._running()
        return self._masks

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start a batch; one that still runs is unwound."""
        self.close()
        scenario = self.scenario
        cases = [task.case for task in tasks]
        scenario.board.prepare(cases)
        schedules = [scenario.scheduled(task) for task in tasks]
        targets = RowTargets(
            np.array([task.computes for task in tasks], dtype=np.int64),
            np.array([task.latency_weight for task in tasks], dtype=np.float64),
        )

        def call(controller: Controller) -> Drawn:
            return scenario.board.draw(cases, controller)

        self._tasks = tasks
        memory = scenario.memory
        self._images = [] if memory is None else [memory.begin(task.world) for task in tasks]
        self._rollout = Rollout(call)
        event = self._rollout.start()
        assert isinstance(event, StepInfo), "a pipeline asks for a decision before it ends"
        self._state.reset(event.run, targets, schedules)
        self._observe(event)

    def act(self, actions: NDArray[np.int64]) -> Outcome | None:
        """Play one step.

        Args:
            actions: (rows, 2) pattern and tier of every row.

        Returns:
            The outcome if that was the last step; else None, with `observation` and `masks`
            renewed.

        Raises:
            StateError: If no batch is running.
        """
        event = self._running().advance(self._placed(self._state.apply(actions)))
        if isinstance(event, Finished):
            self._rollout = None
            images, log, _ = event.result
            assert log is not None, "a controller makes one"
            quality = self.scenario.board.judge(images, [task.case for task in self._tasks])
            bill = bill_of(self._images) if self._images else None
            terms = self.scenario.earned(self._tasks, quality, log, bill)
            return Outcome(self._tasks, images, quality, terms, log)
        self._observe(event)
        return None

    def close(self) -> None:
        """Unwind a batch that still runs; idempotent."""
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = None

    def _observe(self, info: StepInfo) -> None:
        if self._images:
            views = [image.advance() for image in self._images]
            info = info._replace(memory=lambda: views)
        self.observation, self._masks = self._state.observe(info)

    def _placed(self, decision: Decision) -> Decision:
        """Let the memory of every row have its say.

        What lies in a tier of one row may be nowhere in that of another. So the pipeline keeps
        everything that is not dropped, and computes what a row does not have.
        """
        if not self._images:
            return decision
        rows = zip(self._images, decision.modes, decision.tiers, strict=True)
        modes = np.stack([image.act(modes, tiers) for image, modes, tiers in rows])
        kept = np.where(decision.tiers == Tier.DROP, Tier.DROP, Tier.DEVICE).astype(np.int8)
        return decision._replace(modes=modes, tiers=kept)

    def _running(self) -> Rollout[Drawn]:
        if self._rollout is None:
            raise StateError("expected a running episode, received none; call reset first")
        return self._rollout


def project(
    actions: NDArray[np.int64], masks: NDArray[np.bool_], actions_of: ActionSpace
) -> NDArray[np.int64]:
    """Replace infeasible actions by the nearest feasible ones.

    Nearest is the feasible pattern whose number of computed sites is closest, the first of equals.
    Where no pattern is feasible (the cache has no room, so nothing can be reused), everything is
    computed.

    Args:
        actions: (rows, 2) pattern and tier.
        masks: (rows, patterns + tiers).
        actions_of: The discrete actions.
    """
    patterns = len(actions_of.patterns)
    costs = (actions_of.patterns == 0).sum(axis=1)
    projected = actions.copy()
    for row, (pattern, tier) in enumerate(actions):
        if not masks[row, pattern]:
            feasible = np.flatnonzero(masks[row, :patterns])
            distance = np.abs(costs[feasible] - costs[pattern])
            projected[row, 0] = feasible[np.argmin(distance)] if len(feasible) else Mode.COMPUTE
        if not masks[row, patterns + tier]:
            projected[row, 1] = np.flatnonzero(masks[row, patterns:])[0]
    return projected
