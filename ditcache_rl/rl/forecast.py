"""Learn from hindsight how many computes will fit: quantile regression on simulated images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ditcache_rl.control import PolicyNetwork
from ditcache_rl.schedules.placement import Placement
from ditcache_rl.world import Decide, Forecast, Foreseeing, Requests
from ditcache_rl.world.forecast import LEAST, MOST, QUANTILES, readings
from ditcache_rl.world.moment import NAMES, observation

#: Batches of images, how often each is learned from, and moments of a gradient step.
_BATCHES, _PASSES, _MOMENTS = 40, 3, 1024
#: Learning rate at the begin; it falls to a thirtieth.
_RATE = 3e-3


def learn_forecast(
    draw: Callable[[], Requests], placement: Placement, prior: Decide, *, seed: int
) -> PolicyNetwork:
    """Train a forecast on the moments that whoever follows it comes to.

    A trace is known to its end once an image is made, so every moment of it tells how many computes
    would have fitted. The pinball loss makes a quantile of that.

    Args:
        draw: Begins a batch of images.
        placement: Where computes are best.
        prior: Makes the first batch.
        seed: Of weights and order.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PolicyNetwork(len(NAMES), len(QUANTILES))
        learner = torch.optim.Adam(network.parameters(), lr=_RATE)
        falling = torch.optim.lr_scheduler.LinearLR(learner, 1.0, 1 / 30, _BATCHES)
        shares, decide = torch.tensor(QUANTILES), prior
        for _ in range(_BATCHES):
            seen, fitted = _played(draw(), decide)
            order = torch.cat([torch.randperm(len(seen)) for _ in range(_PASSES)])
            for chosen in torch.split(order, _MOMENTS):
                error = fitted[chosen, None] - network(seen[chosen])
                loss = torch.maximum(shares * error, (shares - 1) * error).mean()
                learner.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                learner.step()
            falling.step()
            decide = Foreseeing(placement, Forecast(network.on_host()))
    return network.requires_grad_(False)


def _played(requests: Requests, decide: Decide) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a forecast reads, and the share of the steps left that would have fitted."""
    seen, fitted = [], []
    while requests.step < requests.steps:
        moment = requests.moment()
        seen.append(readings(observation(moment)))
        fitted.append(requests.room() / (moment.steps - moment.step))
        requests.play(decide(moment))
    shares = np.clip(np.concatenate(fitted), LEAST, MOST)
    return torch.as_tensor(np.concatenate(seen)), torch.as_tensor(shares, dtype=torch.float32)
