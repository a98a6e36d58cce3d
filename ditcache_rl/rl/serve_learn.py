"""Learn the price of a compute by PPO, from nothing but what requests become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl.queueing import QueueState
from ditcache_rl.queueing.fronts import Ints
from ditcache_rl.rl.serve_env import ServeVecEnv
from ditcache_rl.rl.serving import PriceView, Service

#: Machines that are played side by side: their tick costs little more than that of one.
_MACHINES = 128
#: Ticks of each between updates. A request is drawn in about ten.
_TICKS = 128


@dataclass(frozen=True, slots=True)
class LearnedPrice:
    """A rule that asks an agent for the price; it needs the training stack.

    Attributes:
        service: What the agent learned in.
        model: The agent.
    """

    service: Service
    model: MaskablePPO

    def grant(self, queue: QueueState) -> Ints:
        """Compute what is worth the likeliest price."""
        view = PriceView.of(queue, self.service)
        places, _ = self.model.predict(
            view.observation, action_masks=view.masks, deterministic=True
        )
        return view.granted(np.asarray(places, dtype=np.int64))


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
    env = ServeVecEnv(service, _MACHINES, np.random.default_rng(seed))
    model = MaskablePPO(
        "MlpPolicy",
        env,
        learning_rate=lambda left: 1e-3 * max(left, 0.05),
        n_steps=_TICKS,
        batch_size=2048,
        n_epochs=4,
        gamma=0.99,  # a compute is paid for by those who come in the next hundred ticks
        gae_lambda=0.9,
        ent_coef=0.005,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )
    with torch.no_grad():
        model.policy.action_net.weight.zero_()  # SB3 sets the bias to zero by itself
    model.learn(ticks, callback=_Heard(on_ticks))
    return LearnedPrice(service, model)
