"""The controller that follows an exported policy: a plan per budget, corrected by a small network.

Plain torch and numpy; the training stack is not needed. The logits are the log-prior of the plan
plus a correction from the observation, infeasible actions are masked, the best one is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditcache_rl.control.patterns import (
    Follower,
    action_prior,
    feasible_patterns,
    pattern_costs,
    step_patterns,
)
from ditcache_rl.errors import BudgetError
from ditcache_rl.features import FeatureBuilder, Observation, Target, schema
from ditcache_rl.types import Decision, Floats, Modes, RunInfo, StepInfo, Tier

#: Log-odds of the planned action against each other one: 0.95 of the probability with four
#: patterns.
SHARPNESS = 4.0
#: Width of both hidden layers of a policy network.
HIDDEN = 64


class ActionSpace(NamedTuple):
    """The discrete actions of a step."""

    patterns: Modes
    """(patterns, sites)."""
    tiers: tuple[Tier, ...]

    @classmethod
    def of(cls, sites: int, tiers: tuple[Tier, ...]) -> ActionSpace:
        """List the actions for a number of sites."""
        return cls(step_patterns(sites), tiers)

    @property
    def logits(self) -> int:
        """Numbers that a policy returns: one per pattern, one per tier."""
        return len(self.patterns) + len(self.tiers)

    def schema(self) -> tuple[str, ...]:
        """Name the numbers of the observation that goes with these actions."""
        return schema(self.patterns.shape[1], len(self.patterns), len(self.tiers))


class PolicyNetwork(nn.Module):
    """Map observations to corrections of the prior; starts as zero."""

    def __init__(self, features: int, logits: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(features, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()
        )
        self.head = nn.Linear(HIDDEN, logits)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.features = features

    def forward(self, observation: Tensor) -> Tensor:
        """Return logits: (rows, patterns + tiers)."""
        corrections: Tensor = self.head(self.hidden(observation[:, : self.features]))
        return observation[:, self.features :] + corrections


class Plan(NamedTuple):
    """Static schedules of one step count, one for every budget."""

    patterns: NDArray[np.int64]
    """(budgets + 1, steps) patterns; row b spends b site computes, -1 where there is none."""
    quality: Floats
    """(budgets + 1, 2) mean PSNR in dB and SSIM on the search prompts; nan where unknown."""

    @property
    def least(self) -> int:
        """Smallest budget that has a schedule."""
        return int(np.flatnonzero(self.patterns[:, 0] >= 0)[0])

    def row(self, budget: int) -> NDArray[np.int64]:
        """Return the schedule of the largest budget that is not above the given one.

        Raises:
            BudgetError: If every schedule spends more.
        """
        rows = np.flatnonzero(self.patterns[: budget + 1, 0] >= 0)
        if not len(rows):
            raise BudgetError(
                f"expected a budget of at least {self.least} site computes, received {budget}"
            )
        found: NDArray[np.int64] = self.patterns[rows[-1]]
        return found


class ActionState:
    """Observation, masks and accounting of a request, shared by training and inference."""

    def __init__(self, actions: ActionSpace) -> None:
        self.actions = actions
        self._costs = pattern_costs(actions.patterns)
        self._builder = FeatureBuilder()

    def reset(self, run: RunInfo, target: Target, plan: NDArray[np.int64]) -> None:
        """Start a request; `plan` is (rows, steps)."""
        self._target, self._plan = target, plan
        self._follower = Follower(self.actions.patterns, plan)
        self._builder.reset(run, target)

    def observe(self, info: StepInfo) -> tuple[Observation, NDArray[np.bool_]]:
        """Return observation (rows, features) and masks (rows, patterns + tiers)."""
        actions, target = self.actions, self._target
        spent = self._builder.spent
        # Under a tradeoff a row may spend what it likes, so there is nothing to make up for.
        followed = self._follower.wanted(info.step, spent)
        wanted = np.where(target.budget > 0, followed, self._plan[:, info.step])
        prior = action_prior(wanted, len(actions.patterns), len(actions.tiers), sharpness=SHARPNESS)
        left = np.where(target.budget > 0, target.budget - spent, -1)
        masks = np.ones((info.run.rows, actions.logits), dtype=bool)
        valid = np.stack([history.valid for history in info.history], axis=1)
        masks[:, : len(actions.patterns)] = feasible_patterns(
            actions.patterns,
            left=left,
            steps_after=info.run.num_inference_steps - info.step - 1,
            valid=valid,
        )
        if info.step == 0:
            # Without a first residual nothing could ever be reused.
            masks[:, len(actions.patterns) :] = [tier is not Tier.DROP for tier in actions.tiers]
        return self._builder.observe(info, prior), masks

    def apply(self, chosen: NDArray[np.int64]) -> Decision:
        """Turn chosen actions (rows, 2) into a decision and account for it."""
        modes = self.actions.patterns[chosen[:, 0]]
        self._builder.note(self._costs[chosen[:, 0]])
        wanted = np.array(self.actions.tiers, dtype=np.int8)[chosen[:, 1]]
        return Decision(modes, np.repeat(wanted[:, None], modes.shape[1], axis=1))


def best_actions(logits: Floats, masks: NDArray[np.bool_], patterns: int) -> NDArray[np.int64]:
    """Take the best feasible pattern and tier of every row: (rows, 2)."""
    allowed = np.where(masks, logits, -np.inf)
    return np.stack(
        [allowed[:, :patterns].argmax(axis=1), allowed[:, patterns:].argmax(axis=1)], axis=1
    )


class NetworkController:
    """Follow a policy under a target, the same for every row.

    Args:
        actions: The discrete actions that the policy was trained with.
        network: Corrects the plan.
        plan: (steps,) pattern per step that the prior follows.
        budget: Site computes to spend, exactly; 0 under a tradeoff.
        latency_weight: Weight of a tradeoff; 0 under a budget.
    """

    probe_blocks = 0

    def __init__(
        self,
        actions: ActionSpace,
        network: PolicyNetwork,
        *,
        plan: NDArray[np.int64],
        budget: int,
        latency_weight: float,
    ) -> None:
        self._actions, self._network = actions, network
        self._plan, self._budget, self._weight = plan, budget, latency_weight

    def reset(self, run: RunInfo) -> None:
        """Start a request."""
        target = Target(np.full(run.rows, self._budget), np.full(run.rows, self._weight))
        self._state = ActionState(self._actions)
        self._state.reset(run, target, np.repeat(self._plan[None], run.rows, axis=0))

    @torch.inference_mode()
    def decide(self, info: StepInfo) -> Decision:
        """Take the best feasible action."""
        observation, masks = self._state.observe(info)
        logits = self._network(torch.from_numpy(observation)).numpy()
        return self._state.apply(best_actions(logits, masks, len(self._actions.patterns)))
