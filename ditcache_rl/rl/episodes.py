"""Episodes of denoising: what the single and the vectorised environment share.

A batch of tasks is one call of the pipeline in a worker thread. Every row decides for itself; all
rows end together, with a terminal reward each.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.bench import Case, Drawn, ImageMemory, Quality, bill_of
from ditcache_rl.control import ActionSpace, ActionState, Controller
from ditcache_rl.control.observation import Observation, RowTargets
from ditcache_rl.errors import StateError
from ditcache_rl.rl.reward import RewardTerms
from ditcache_rl.rl.rollout import Finished, Rollout
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.view import View
from ditcache_rl.types import Decision, Floats, Mode, Modes, StepInfo, Tier


class Outcome(NamedTuple):
    """A finished batch."""

    tasks: Sequence[Task]
    images: Tensor
    """(rows, 3, H, W); no rows where they are on workers."""
    quality: Quality
    terms: RewardTerms
    modes: Modes
    """(steps, rows, sites) that were effective."""
    returns: NDArray[np.float64]
    """(rows,) what the terms come to."""

    @property
    def compute_share(self) -> Floats:
        """(rows,) computed sites over all sites of all steps."""
        return np.asarray((self.modes == Mode.COMPUTE).mean(axis=(0, 2)), dtype=np.float64)

    @classmethod
    def joined(cls, parts: Sequence[Outcome], order: NDArray[np.int64]) -> Outcome:
        """Return that of all rows of all parts, whose images are elsewhere.

        Args:
            parts: Of rows.
            order: (rows,) where among the rows of all parts, one after the other, each one is.
        """
        tasks = [task for one in parts for task in one.tasks]
        quality = Quality.joined(one.quality for one in parts)
        terms = RewardTerms.joined(one.terms for one in parts)
        return cls(
            [tasks[row] for row in order],
            torch.cat([one.images for one in parts]),
            Quality(*(column[order] for column in quality)),
            RewardTerms(*(column[order] for column in terms)),
            np.concatenate([one.modes for one in parts], axis=1)[:, order],
            np.concatenate([one.returns for one in parts])[order],
        )

    def info(self, row: int) -> dict[str, float]:
        """Name the numbers of one row, for `info` of an environment."""
        return {
            "psnr_db": float(self.quality.psnr_db[row]),
            "ssim": float(self.quality.ssim[row]),
            "compute_share": float(self.compute_share[row]),
            "reward/psnr": float(self.terms.psnr[row]),
            "reward/ssim": float(self.terms.ssim[row]),
            "reward/latency": float(self.terms.latency[row]),
            "reward/memory": float(self.terms.memory[row]),
        }


class Episodes:
    """One batch of rows after the other: `begin`, then `act` until an outcome comes back.

    Args:
        scenario: What is played in.
        watched: Whether `frames` will be asked for.
    """

    def __init__(self, scenario: Scenario, *, watched: bool = False) -> None:
        self.scenario = scenario
        board = scenario.board
        self._view = View(board.pipe, board.call) if watched else None
        self._cases: list[Case] = []
        self._images: Tensor | None = None
        self._state = ActionState(scenario.actions)
        self._rollout: Rollout[Drawn] | None = None
        self._tasks: Sequence[Task] = ()
        #: Memory of every row, where it is priced.
        self._memories: list[ImageMemory] = []
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
        cases = self._cases = [task.case for task in tasks]
        scenario.board.prepare(cases)
        schedules = [scenario.scheduled(task) for task in tasks]
        targets = RowTargets(
            np.array([task.computes for task in tasks], dtype=np.int64),
            np.array([task.latency_weight for task in tasks], dtype=np.float64),
        )

        def call(controller: Controller) -> Drawn:
            board = scenario.board
            with self._view.watching(board.pipe.scheduler) if self._view else nullcontext():
                return board.draw(cases, controller)

        self._tasks, self._images = tasks, None
        memory = scenario.memory
        self._memories = [] if memory is None else [memory.begin(task.world) for task in tasks]
        self._rollout = Rollout(call)
        event = self._rollout.start()
        assert isinstance(event, StepInfo), "a pipeline asks for a decision before it ends"
        self._levels = event.run.sigmas[:2]
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
        self._images = None
        if isinstance(event, Finished):
            self._rollout = None
            images, log, _ = event.result
            assert log is not None, "a controller makes one"
            quality = self.scenario.board.judge(images, self._cases)
            bill = bill_of(self._memories) if self._memories else None
            terms = self.scenario.earned(self._tasks, quality, log.modes, bill)
            returns = self.scenario.returns(terms)
            self._images = images
            return Outcome(self._tasks, images, quality, terms, log.modes, returns)
        self._levels = event.run.sigmas[event.step - 1 : event.step + 1]
        self._observe(event)
        return None

    def play(self, actions: NDArray[np.int64]) -> tuple[Outcome | None, NDArray[np.bool_]]:
        """Play one step, with the nearest feasible actions where some are not feasible.

        Args:
            actions: (rows, 2) pattern and tier of every row.

        Returns:
            As `act`, and (rows,) whether another action was played.
        """
        played = project(actions, self.masks, self.scenario.actions)
        return self.act(played), (actions != played).any(axis=1)

    def frames(self) -> NDArray[np.uint8]:
        """Return what the images will be, as far as one can tell now: (rows, H, W, 3).

        Black before the first step has been played, and the images themselves after the last.

        Raises:
            StateError: If no batch has begun, or nothing is watched.
        """
        if self._view is None or not self._cases:
            raise StateError("expected a watched episode to show, received none; call reset first")
        if self._images is None:
            self._images = self._view.show(self._cases, *self._levels)
        images = self._images
        if images is None:
            images = torch.zeros_like(self.scenario.board.references(self._cases))
        pixels = (images.movedim(1, -1).numpy() * 255).round()
        return np.asarray(pixels, dtype=np.uint8)

    def close(self) -> None:
        """Unwind a batch that still runs; idempotent."""
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = None

    def _observe(self, info: StepInfo) -> None:
        """Look at a step; whatever features of somebody's own raise, nothing is left running."""
        if self._memories:
            views = [memory.advance() for memory in self._memories]
            info = info._replace(memory=lambda: views)
        try:
            self.observation, self._masks = self._state.observe(info)
        except BaseException:
            self.close()
            raise

    def _placed(self, decision: Decision) -> Decision:
        """Let the memory of every row have its say.

        What lies in a tier of one row may be nowhere in that of another. So the pipeline keeps
        everything that is not dropped, and computes what a row does not have.
        """
        if not self._memories:
            return decision
        rows = zip(self._memories, decision.modes, decision.tiers, strict=True)
        modes = np.stack([memory.act(modes, tiers) for memory, modes, tiers in rows])
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
