"""The policies that are trained: log-prior of the schedule plus a network that starts as zero."""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from ditcache_rl.control import PolicyNetwork
from ditcache_rl.control.network import HIDDEN
from ditcache_rl.errors import ConfigError

#: Return per log-odds of the prior, in Q values: a scheduled pattern begins 0.2 above the others,
#: which is what two decibels are worth.
_TEMPERATURE = 0.05


class _Extractor(nn.Module):
    """Hand what the actor reads through, and a hidden layer to the critic."""

    def __init__(self, actor: int, critic: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = actor, HIDDEN
        self.critic = nn.Sequential(
            nn.Linear(critic, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()
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
        self.mlp_extractor = _Extractor(self.features_dim, self.features_dim)

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


class _PriorLSTM(nn.LSTM):
    """Hands the log-prior, the last numbers of its input, on beside what it remembers."""

    def __init__(self, observations: int, logits: int) -> None:
        super().__init__(observations, HIDDEN)
        self._logits = logits

    def forward(self, observations: Tensor, state: Any = None) -> Any:  # type: ignore[override]
        """Return (steps, rows, hidden + logits), and the state."""
        remembered, state = super().forward(observations, state)
        return torch.cat([remembered, observations[..., -self._logits :]], dim=-1), state


class RecurrentPriorPolicy(RecurrentActorCriticPolicy):  # type: ignore[misc]
    """Draws any action, and remembers what it saw; its actor corrects the prior, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, lstm_hidden_size=HIDDEN, **kwargs)
        self.lstm_actor = _PriorLSTM(self.features_dim, int(self.action_space.nvec.sum()))
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=args[2](1), **self.optimizer_kwargs
        )

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Extractor(HIDDEN + int(self.action_space.nvec.sum()), HIDDEN)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.action_net = PolicyNetwork(HIDDEN, int(self.action_space.nvec.sum()))


class _QValues(nn.Module):
    """The value of a state, less what an action's log-odds fall short of the best one's."""

    def __init__(self, observations: int, patterns: int, tiers: int) -> None:
        super().__init__()
        self.patterns = patterns
        self.actor = PolicyNetwork(observations - patterns - tiers, patterns + tiers)
        self.value = nn.Sequential(nn.Linear(observations, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))

    def forward(self, observation: Tensor) -> Tensor:
        """Return Q values: (rows, patterns * tiers)."""
        logits = self.actor(observation)
        pairs = logits[:, : self.patterns, None] + logits[:, None, self.patterns :]
        odds = pairs.flatten(1)
        best: Tensor = odds.max(dim=1, keepdim=True).values
        values: Tensor = self.value(observation) + _TEMPERATURE * (odds - best)
        return values


class PriorQPolicy(DQNPolicy):
    """Takes the pair of pattern and tier with the largest Q value, at first the scheduled one.

    Args:
        patterns: Patterns among the pairs, whose number is that of the actions.
    """

    def __init__(self, *args: Any, patterns: int, **kwargs: Any) -> None:
        self._patterns = patterns
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        """Make a Q network."""
        made = super().make_q_net()
        tiers = int(made.action_space.n) // self._patterns
        made.q_net = _QValues(made.features_dim, self._patterns, tiers)  # type: ignore[assignment]
        return made.to(self.device)

    @property
    def network(self) -> PolicyNetwork:
        """The network whose best actions are those of the largest Q value."""
        values = self.q_net.q_net
        assert isinstance(values, _QValues)
        return values.actor


def exported(model: BaseAlgorithm) -> PolicyNetwork:
    """Copy the actor of a model, on the CPU and without gradients.

    Those of this module can be copied, and the `MlpPolicy` of an actor-critic, if its layers end in
    tanh: it decides by itself, from the same observation.

    Raises:
        ConfigError: If what the model decides with has another shape.
    """
    policy = model.policy
    if model.get_vec_normalize_env() is not None:
        raise ConfigError(
            "expected a model that reads observations as they are, received one that was trained "
            "on normalized ones, which no policy does; train it without VecNormalize"
        )
    if isinstance(policy, PriorPolicy | PriorQPolicy):
        network = policy.network
    else:
        network = _of_layers(policy)
    copy = PolicyNetwork(network.features, network.head.out_features, network.widths)
    copy.load_state_dict(
        {k: v.detach().cpu().to(torch.float32) for k, v in network.state_dict().items()}
    )
    return copy.requires_grad_(False)


def _of_layers(policy: Any) -> PolicyNetwork:
    """Make a network of the layers of an `MlpPolicy`."""
    fits = (
        isinstance(policy, ActorCriticPolicy)
        and not isinstance(policy, RecurrentActorCriticPolicy)
        and isinstance(policy.features_extractor, FlattenExtractor)
        and hasattr(policy.action_space, "nvec")
    )
    inner = list(policy.mlp_extractor.policy_net) if fits else []
    linear, between = inner[::2], inner[1::2]
    if not (
        inner
        and all(isinstance(one, nn.Linear) for one in linear)
        and all(isinstance(one, nn.Tanh) for one in between)
    ):
        raise ConfigError(
            f"expected a policy of ditcache_rl.rl or an actor-critic of layers with tanh, received "
            f"{type(policy).__name__}, whose network a policy folder cannot hold; train with "
            "MaskablePriorPolicy, PlainPriorPolicy or PriorQPolicy"
        )
    network = PolicyNetwork(
        policy.features_dim,
        policy.action_net.out_features,
        tuple(one.out_features for one in linear),
    )
    network.hidden.load_state_dict(policy.mlp_extractor.policy_net.state_dict())
    network.head.load_state_dict(policy.action_net.state_dict())
    return network
