"""Learn the price of a compute by PPO, from nothing but what requests become.

What becomes of a request depends on who comes after it, far more than on the price of one tick. So
the critic, which nobody needs afterwards, sees who will come: it foresees what no price changes,
and what is left for the actor to learn from is what its prices did.

Source: input-driven baselines (arXiv 1807.02264).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import Tensor, nn

from ditcache_rl.queueing import Machines, QueueState
from ditcache_rl.queueing.fronts import Ints
from ditcache_rl.rl.serve_env import ServeVecEnv
from ditcache_rl.rl.serving import PriceView, Service

#: Machines that are played side by side: their tick costs little more than that of one.
_MACHINES = 128
#: Ticks of each between updates; many small updates learn faster here than few large ones.
_TICKS = 16
_HIDDEN = [64, 64]
#: Over which requests to come are counted for the critic, in images drawn alone.
_SPANS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class LearnedPrice:
    """A rule that asks an agent for the price.

    Attributes:
        service: What the agent learned in.
        actor: (machines, observations) to (machines, prices) logits.
    """

    service: Service
    actor: nn.Module

    def grant(self, queue: QueueState) -> Ints:
        """Compute what is worth the likeliest price."""
        view = PriceView.of(queue, self.service)
        with torch.no_grad():
            logits = self.actor(torch.from_numpy(view.observation)).numpy()
        return view.granted(np.where(view.masks, logits, -np.inf).argmax(axis=1))


class ForeseeingVecEnv(ServeVecEnv):
    """Machines whose observations end in what will come; for a critic alone.

    Args:
        service: What requests are served in.
        machines: Number of environments.
        rng: Draws the requests.
    """

    def __init__(self, service: Service, machines: int, rng: np.random.Generator) -> None:
        super().__init__(service, machines, rng)
        names = len(service.observation_names()) + len(_SPANS)
        self.observation_space = spaces.Box(-10.0, 10.0, (names,), np.float32)

    def _seen(self, machine: int | slice) -> NDArray[np.float32]:
        there, to_come = super()._seen(machine), coming(self._priced.machines)[machine]
        return np.concatenate([there, to_come], axis=-1)


def coming(machines: Machines) -> NDArray[np.float32]:
    """Return the logarithms of 1 + requests that come within each span: (machines, spans)."""
    image_s = machines.ticks.image_s(machines.fronts.steps)
    wait_s = machines.traffic.arrival_s - machines.queue.now_s[:, None]
    counts = [((wait_s > 0) & (wait_s <= span * image_s)).sum(axis=1) for span in _SPANS]
    return np.asarray(np.log1p(np.stack(counts, axis=1)), dtype=np.float32)


class _Apart(MlpExtractor):
    """Shows the actor less than the critic."""

    def __init__(self, features: int, seen: int) -> None:
        super().__init__(features, {"pi": [], "vf": _HIDDEN}, nn.Tanh)
        actor = MlpExtractor(seen, {"pi": _HIDDEN, "vf": []}, nn.Tanh)
        self._seen, self.policy_net = seen, actor.policy_net
        self.latent_dim_pi = actor.latent_dim_pi

    def forward_actor(self, features: Tensor) -> Tensor:
        """Leave out what will come."""
        return super().forward_actor(features[:, : self._seen])


class _Foreseeing(MaskableActorCriticPolicy):  # type: ignore[misc]  # it comes without types
    """A policy whose critic alone sees what will come."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Apart(self.features_dim, self.features_dim - len(_SPANS))


class _Heard(BaseCallback):
    """Tells after every tick how many there were, and the mean PSNR of traces that ended."""

    def __init__(self, on_ticks: Callable[[int, list[float]], None]) -> None:
        super().__init__()
        self._on_ticks = on_ticks

    def _on_step(self) -> bool:
        ended = [info["psnr_db"] for info in self.locals["infos"] if "psnr_db" in info]
        self._on_ticks(self.num_timesteps, ended)
        return True


def learn_prices(
    service: Service,
    ticks: int,
    *,
    seed: int,
    on_ticks: Callable[[int, list[float]], None] = lambda ticks, psnr_db: None,
) -> LearnedPrice:
    """Train an agent that begins with every price equally likely.

    Args:
        service: What requests are served in.
        ticks: Played in all, on all machines together.
        seed: Of requests, actions and weights.
        on_ticks: Hears how many ticks were played, and the mean PSNR of each trace that ended.
    """
    model = MaskablePPO(
        _Foreseeing,
        ForeseeingVecEnv(service, _MACHINES, np.random.default_rng(seed)),
        learning_rate=lambda left: 2e-3 * max(left, 0.05),
        n_steps=_TICKS,
        batch_size=1024,
        n_epochs=4,
        gamma=0.98,  # a compute is paid for by those who come in the next fifty ticks
        gae_lambda=0.95,
        ent_coef=0.005,
        seed=seed,
        device="cpu",
    )
    with torch.no_grad():
        model.policy.action_net.weight.zero_()  # SB3 sets the bias to zero by itself
    model.learn(ticks, callback=_Heard(on_ticks))
    return LearnedPrice(
        service, nn.Sequential(model.policy.mlp_extractor.policy_net, model.policy.action_net)
    )
