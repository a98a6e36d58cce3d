"""The controller that follows a schedule as a small network corrects it.

The training stack is not needed: torch holds the network, numpy evaluates it. The logits are the
log-prior of the schedule plus a correction from the observation, infeasible actions are masked, the
best one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ditcache_rl.control.observation import (
    FeatureBuilder,
    Observation,
    OwnFeatures,
    RowTargets,
    schema,
)
from ditcache_rl.schedules.forecast import fitted_steps
from ditcache_rl.schedules.patterns import (
    action_prior,
    affordable_patterns,
    follow,
    known_patterns,
    pattern_costs,
    pattern_name,
    pattern_numbers,
    step_patterns,
    with_patterns,
)
from ditcache_rl.schedules.schedule import Schedule
from ditcache_rl.types import HISTORY, Decision, Fitted, Floats, Modes, RunInfo, StepInfo, Tier

#: Log-odds of the scheduled action against each other one: 0.95 of the probability with four
#: patterns.
SHARPNESS = 4.0
#: Width of the hidden layers of a policy network.
HIDDEN = 64


class ActionSpace(NamedTuple):
    """The discrete actions of a step."""

    patterns: Modes
    """(patterns, sites)."""
    tiers: tuple[Tier, ...]
    features: OwnFeatures | None = None
    """What the observation that goes with them has beside ours."""

    @classmethod
    def of(
        cls,
        sites: int,
        tiers: tuple[Tier, ...],
        *,
        patterns: Sequence[Sequence[int]] = (),
        features: OwnFeatures | None = None,
    ) -> ActionSpace:
        """List the actions for a number of sites.

        Raises:
            ConfigError: If further `patterns` do not give every site a mode, or are there already.
        """
        return cls(with_patterns(step_patterns(sites), patterns), tiers, features)

    @property
    def logits(self) -> int:
        """Numbers that a policy returns: one per pattern, one per tier."""
        return len(self.patterns) + len(self.tiers)

    def schema(self) -> tuple[str, ...]:
        """Name the numbers of the observation that goes with these actions."""
        own = () if self.features is None else self.features.names
        return schema(self.patterns.shape[1], len(self.patterns), len(self.tiers), own)

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name the patterns, site after site, and the tiers."""
        patterns = tuple(pattern_name(pattern) for pattern in self.patterns)
        return patterns, tuple(tier.name.lower() for tier in self.tiers)


class PolicyNetwork(nn.Module):
    """Map observations to corrections of the prior; starts as zero.

    Args:
        features: Numbers of the observation that it reads. Those that follow are the prior; where
            it reads them all, nothing is added to what it says.
        logits: Patterns and tiers.
        widths: Of the hidden layers.
    """

    def __init__(
        self, features: int, logits: int, widths: Sequence[int] = (HIDDEN, HIDDEN)
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, width in pairwise((features, *widths)):
            layers += [nn.Linear(inputs, width), nn.Tanh()]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], logits)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.features, self.widths = features, tuple(widths)

    def forward(self, observation: Tensor) -> Tensor:
        """Return logits: (rows, patterns + tiers)."""
        corrections: Tensor = self.head(self.hidden(observation[:, : self.features]))
        prior = observation[:, self.features :]
        return prior + corrections if prior.shape[1] else corrections

    def on_host(self) -> HostNetwork:
        """Return the same function of numpy arrays."""
        layers = [
            (layer.weight.detach().cpu().numpy().T, layer.bias.detach().cpu().numpy())
            for layer in (*self.hidden, self.head)
            if isinstance(layer, nn.Linear)
        ]
        return HostNetwork(layers, self.features)


class HostNetwork(NamedTuple):
    """A policy network in numpy: at batch 1 half of torch's time is spent before its arithmetic."""

    layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
    """Weight (inputs, outputs) and bias (outputs,) of every layer."""
    features: int

    def __call__(self, observation: Observation) -> Observation:
        """Return logits: (rows, patterns + tiers)."""
        *inner, (weight, bias) = self.layers
        hidden = observation[:, : self.features]
        for into, shift in inner:
            hidden = np.tanh(hidden @ into + shift)
        corrections: Observation = hidden @ weight + bias
        prior = observation[:, self.features :]
        return prior + corrections if prior.shape[1] else corrections


class ActionState:
    """Observation, masks and accounting of a request, shared by training and inference.

    What schedule and target say is laid out as tables when the request starts, so that a step looks
    it up: at batch 1 every array operation costs more than its arithmetic.
    """

    def __init__(self, actions: ActionSpace) -> None:
        self.actions = actions
        self._costs = pattern_costs(actions.patterns)
        every = np.arange(len(actions.patterns))
        #: (patterns, patterns + tiers) log-prior of the actions where the schedule wants a pattern.
        self._priors = action_prior(every, len(every), len(actions.tiers), sharpness=SHARPNESS)
        self._tiers = np.array(actions.tiers, dtype=np.int8)
        self._builder = FeatureBuilder(actions.features)

    def reset(self, run: RunInfo, targets: RowTargets, schedules: Sequence[Schedule]) -> None:
        """Start a request; every row has a schedule to follow."""
        patterns = self.actions.patterns
        scheduled = np.stack([pattern_numbers(one.modes, patterns) for one in schedules])
        self._fitted: list[Fitted | None] = [None] * run.num_inference_steps
        if any(one.coefficients is not None for one in schedules):
            bare = np.full((run.num_inference_steps, HISTORY), np.nan)
            own = [bare if one.coefficients is None else one.coefficients for one in schedules]
            self._fitted = fitted_steps(patterns[scheduled.T][..., 0], np.stack(own, axis=1))
        # Under a tradeoff a row may spend what it likes, so there is nothing to make up for.
        bound = targets.computes > 0
        followed = follow(patterns, scheduled)
        self._wanted = np.where(bound[:, None, None], followed, scheduled[..., None])
        self._allowed = _affordable(self.actions, run.num_inference_steps)
        #: Site computes left; -1 in rows under a tradeoff, whose computes take nothing away.
        self._left = np.where(bound, targets.computes, -1)
        self._bound = bound.astype(np.int64)
        self._rows = np.arange(run.rows)
        self._builder.reset(run, targets)

    def observe(self, info: StepInfo) -> tuple[Observation, NDArray[np.bool_]]:
        """Return observation (rows, features) and masks (rows, patterns + tiers)."""
        self._step = info.step
        prior = self._priors[self._wanted[self._rows, info.step, self._builder.spent]]
        masks = self._allowed[info.step, self._left]
        if not all(history.valid.all() for history in info.history):
            valid = np.stack([history.valid for history in info.history], axis=1)
            masks[:, : len(self._costs)] &= known_patterns(self.actions.patterns, valid)
        return self._builder.observe(info, prior), masks

    def apply(self, chosen: NDArray[np.int64]) -> Decision:
        """Turn chosen actions (rows, 2) into a decision and account for it."""
        modes = self.actions.patterns[chosen[:, 0]]
        computed = self._costs[chosen[:, 0]]
        self._left = self._left - computed * self._bound
        self._builder.note(computed)
        tiers = self._tiers[chosen[:, 1:]].repeat(modes.shape[1], axis=1)
        return Decision(modes, tiers, self._fitted[self._step])


def _affordable(actions: ActionSpace, steps: int) -> NDArray[np.bool_]:
    """Tell which actions the site computes that are left allow.

    Returns:
        (steps, site computes left + 1, patterns + tiers). The last entry of the second axis,
        which is that of -1, is for rows under a tradeoff.
    """
    patterns = actions.patterns
    left = np.append(np.arange(steps * patterns.shape[1] + 1), -1)
    table = np.ones((steps, len(left), actions.logits), dtype=bool)
    table[..., : len(patterns)] = affordable_patterns(
        patterns, left=left, steps_after=np.arange(steps)[::-1, None]
    )
    # Without a first residual nothing could ever be reused.
    table[0, :, len(patterns) :] = [tier is not Tier.DROP for tier in actions.tiers]
    return table


def best_actions(
    logits: Floats | Observation, masks: NDArray[np.bool_], patterns: int
) -> NDArray[np.int64]:
    """Take the best feasible pattern and tier of every row: (rows, 2)."""
    allowed = np.where(masks, logits, -np.inf)
    chosen = np.empty((len(allowed), 2), dtype=np.int64)
    allowed[:, :patterns].argmax(axis=1, out=chosen[:, 0])
    allowed[:, patterns:].argmax(axis=1, out=chosen[:, 1])
    return chosen


class NetworkController:
    """Follow a policy under a target, the same for every row.

    Args:
        actions: The discrete actions that the policy was trained with.
        network: Corrects the schedule.
        schedule: What the prior follows.
        computes: Site computes to spend, exactly; 0 under a tradeoff.
        latency_weight: Weight of a tradeoff; 0 otherwise.
    """

    probe_blocks = 0

    def __init__(
        self,
        actions: ActionSpace,
        network: PolicyNetwork,
        *,
        schedule: Schedule,
        computes: int,
        latency_weight: float,
    ) -> None:
        self._actions, self._network = actions, network.on_host()
        self._schedule, self._computes, self._latency_weight = schedule, computes, latency_weight

    def reset(self, run: RunInfo) -> None:
        """Start a request."""
        targets = RowTargets(
            np.full(run.rows, self._computes), np.full(run.rows, self._latency_weight)
        )
        self._state = ActionState(self._actions)
        self._state.reset(run, targets, [self._schedule] * run.rows)

    def forget(self, run: RunInfo) -> None:
        """Keep the count of computes; the observation sees by itself that tensors changed."""

    def decide(self, info: StepInfo) -> Decision:
        """Take the best feasible action."""
        observation, masks = self._state.observe(info)
        logits = self._network(observation)
        return self._state.apply(best_actions(logits, masks, len(self._actions.patterns)))
