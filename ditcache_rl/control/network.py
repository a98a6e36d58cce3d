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

from ditcache_rl.control.actions import ActionSpace, ActionState, best_actions
from ditcache_rl.control.observation import (
    Observation,
    RowTargets,
)
from ditcache_rl.schedules.schedule import Schedule
from ditcache_rl.types import Decision, RunInfo, StepInfo

#: Width of the hidden layers of a policy network.
HIDDEN = 64


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
