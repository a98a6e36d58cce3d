"""The policies that PPO trains: log-prior of the schedule plus a network that starts as zero."""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from ditcache_rl.control import PolicyNetwork


class _Extractor(nn.Module):
    """Hand the observation through to the actor, and a hidden layer of it to the critic."""

    def __init__(self, observations: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = observations, 64
        self.critic = nn.Sequential(
            nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, self.latent_dim_vf), nn.Tanh()
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what actor and critic read."""
        return features, self.critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """Return what the actor reads."""
        return features

    def forward_critic(self, features: Tensor) -> Tensor:
        """Return what the critic reads."""
        hidden: Tensor = self.critic(features)
        return hidden


class PriorPolicy:
    """Makes the actor of an actor-critic a `PolicyNetwork`, which is what is exported."""

    action_space: Any
    action_net: Any
    features_dim: int
    mlp_extractor: Any
    optimizer: Any
    optimizer_class: Any
    optimizer_kwargs: dict[str, Any]
    parameters: Any

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Extractor(self.features_dim)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]  # that of the actor-critic
        logits = int(self.action_space.nvec.sum())
        self.action_net = PolicyNetwork(self.features_dim - logits, logits)
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    @property
    def network(self) -> PolicyNetwork:
        """The actor."""
        network = self.action_net
        assert isinstance(network, PolicyNetwork)
        return network


class MaskablePriorPolicy(PriorPolicy, MaskableActorCriticPolicy):  # type: ignore[misc]
    """Draws feasible actions only."""


class PlainPriorPolicy(PriorPolicy, ActorCriticPolicy):
    """Draws any action; the environment plays the nearest feasible one."""


def exported(policy: PriorPolicy) -> PolicyNetwork:
    """Copy the actor, on the CPU and without gradients."""
    network = policy.network
    copy = PolicyNetwork(network.features, network.head.out_features)
    copy.load_state_dict(
        {k: v.detach().cpu().to(torch.float32) for k, v in network.state_dict().items()}
    )
    return copy.requires_grad_(False)
