"""A pacer that nobody trained: gaps cost the cube of their length, coefficients are of a line."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ditcache_rl.control import PolicyNetwork
from ditcache_rl.schedules.gaps import FEATURES, WIDTH, GapModel
from ditcache_rl.types import HISTORY, Floats
from ditcache_rl.world import Pacer, Pacing
from ditcache_rl.world.agent import ACTIONS, AGENT_NAMES
from ditcache_rl.world.forecast import QUANTILES
from ditcache_rl.world.moment import NAMES


def cubed_costs(steps: int) -> Floats:
    """Cost a gap the cube of its length, over a thousand."""
    start, stop = np.arange(steps)[None, :, None], np.arange(steps + 1)[None, None, :]
    skipped = np.maximum(stop - start - 1, 0)
    return np.broadcast_to(skipped**3 / 1000.0, (steps, steps, steps + 1)).copy()


def gap_model(seed: int | None = None) -> GapModel:
    """Return a model with random weights, or one that adds nothing to a line."""
    rng = np.random.default_rng(seed)
    scale = 0.0 if seed is None else 0.1
    sizes = (FEATURES, WIDTH, WIDTH, HISTORY)
    layers = tuple(
        (scale * rng.standard_normal((a, b)), scale * rng.standard_normal(b))
        for a, b in itertools.pairwise(sizes)
    )
    return GapModel(layers, np.zeros(FEATURES), np.ones(FEATURES))


def tiny_pacer(sigmas: Floats, *, compute_s: float = 1.0, agent: bool = False) -> Pacer:
    """Make one for a run; the agent changes nothing of its prior."""
    steps = len(sigmas) - 1
    with torch.random.fork_rng(devices=[]):
        network = PolicyNetwork(len(AGENT_NAMES), ACTIONS).requires_grad_(False)
        forecast = PolicyNetwork(len(NAMES), len(QUANTILES)).requires_grad_(False)
    pacing = Pacing(
        compute_s=compute_s,
        before=0.0,
        idle=0.0,
        after=0.0,
        rate=0.0,
        margin=0.0,
        jump=0.0,
        reverts=0.0,
        kept_back=0.0,
        caution=0.0,
        decides="agent" if agent else "rule",
        promised_share=0.95,
        shortest_s=1.0,
        longest_s=float(steps),
        reads=[*AGENT_NAMES],
    )
    return Pacer(
        pacing,
        sigmas,
        cubed_costs(steps),
        gap_model(),
        np.array([[2, 1], [3, 2]]),
        np.array([3.0]),
        np.array([0.5]),
        network if agent else None,
        forecast if agent else None,
    )
