"""Refuse samplers that no fit can carry latents through."""

from __future__ import annotations

import torch

from ditcache_rl.bench import Replay
from ditcache_rl.errors import UnsupportedModelError


def check_sampler(replay: Replay) -> None:
    """Take every step of full compute once more, the last one first.

    Raises:
        UnsupportedModelError: If one ends elsewhere.
    """
    recorded, outputs = replay.recorded(), replay.outputs()
    for step in reversed(range(len(outputs))):
        if not torch.equal(replay.advance(step, outputs[step], recorded[step]), recorded[step + 1]):
            raise UnsupportedModelError(
                "expected a sampler whose steps depend on nothing but latents and output to fit "
                "forecasts, received one that remembers its last steps or draws noise"
            )
