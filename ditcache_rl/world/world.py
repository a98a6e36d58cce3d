"""The moving world: images with deadlines under given loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ditcache_rl.world.load import KINDS, SLOTS, MachineLoad, find_load
from ditcache_rl.world.moment import Prices
from ditcache_rl.world.simulator import BEFORE, GapCosts, Requests

#: Time after the deadline that traces go on, in computes.
_BEYOND = 40


class World(NamedTuple):
    """Where images with deadlines are simulated."""

    quality: GapCosts
    prices: Prices
    deadlines: tuple[float, float]
    """Shortest and longest time of an image, in computes of an unloaded machine."""
    loads: Mapping[str, MachineLoad] = KINDS
    """By name."""

    def draw(self, loads: Sequence[str], rows: int, rng: np.random.Generator) -> Requests:
        """Begin a batch of images, as many under each load."""
        image = len(self.quality.sigmas) - 1
        parts = np.array_split(np.arange(rows), len(loads))
        found = [find_load(name, self.loads) for name in loads]
        # The images before this one may run at the slowest time there is.
        worst = max(load.slowest(image) for load in found)
        slots = int(SLOTS * (BEFORE * image * worst * 1.2 + self.deadlines[1] + _BEYOND))
        traces = [
            load.traces(len(part), slots, image=image, rng=rng)
            for load, part in zip(found, parts, strict=True)
        ]
        given = rng.uniform(*self.deadlines, rows)
        return Requests(self.quality, self.prices, np.concatenate(traces), given, rng=rng)

    def fixed(self, loads: Sequence[str], rows: int, seed: int) -> Callable[[], Requests]:
        """Return what begins the same batch again and again."""
        return self.draw(loads, rows, np.random.default_rng(seed)).again
