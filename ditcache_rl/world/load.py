"""How much slower a machine is than at its best, over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.types import Floats

#: What a compute takes beside one, two and three other tenants, over one alone.
_SLOWDOWNS = (1.0, 1.4, 2.0, 3.0)
#: Slots of a trace per compute of an unloaded machine.
SLOTS = 4


class MachineLoad(Protocol):
    """Draws traces of slowdown; times are in computes of an unloaded machine."""

    def slowest(self, image: float) -> float:
        """Return how many times as long as `image` computes it may take to do them."""

    def traces(self, rows: int, slots: int, *, image: float, rng: np.random.Generator) -> Floats:
        """Draw traces: (rows, slots) slowdown in each slot.

        Args:
            rows: Traces.
            slots: Of 1 / SLOTS computes each.
            image: Computes of one image.
            rng: Draws.
        """


class LoadKind(NamedTuple):
    """Tenants that come and go: the slowdown jumps after exponential dwell times."""

    dwell_images: float
    """Mean time between two jumps, in times of one image on an unloaded machine."""
    slowdowns: tuple[float, ...] = _SLOWDOWNS
    """What is jumped between, each as likely as the others."""

    def slowest(self, image: float) -> float:
        """As in `MachineLoad`: it may stay at the worst of its slowdowns."""
        return max(self.slowdowns)

    def traces(self, rows: int, slots: int, *, image: float, rng: np.random.Generator) -> Floats:
        """As in `MachineLoad`."""
        stay = np.exp(-1.0 / (self.dwell_images * image * SLOTS))
        jumps = rng.random((rows, slots)) > stay
        jumps[:, 0] = True
        drawn = rng.integers(len(self.slowdowns), size=(rows, slots))
        # Every slot has what was drawn at the last jump.
        begins = np.flatnonzero(jumps)
        slowdowns = np.array(self.slowdowns)[drawn.ravel()[begins]]
        return np.repeat(slowdowns, np.diff(begins, append=jumps.size)).reshape(rows, slots)


#: Dwell times that are long, comparable with, and short against an image; and what no rule was
#: tuned on: a slower machine, bursts, a fourth tenant.
KINDS: Mapping[str, LoadKind] = {
    "slow": LoadKind(10.0),
    "comparable": LoadKind(1.0),
    "fast": LoadKind(0.2),
    "slower": LoadKind(1.0, tuple(1.5 * factor for factor in _SLOWDOWNS)),
    "burstier": LoadKind(0.1, (1.0, 1.0, 1.0, 4.0)),
    "crowded": LoadKind(1.0, (1.0, 1.4, 2.0, 3.0, 4.5)),
}


def find_load(name: str, loads: Mapping[str, MachineLoad]) -> MachineLoad:
    """Return the load of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in loads:
        raise ConfigError(
            f"expected a load among {', '.join(loads)}, received {name!r}.{closest(name, loads)}"
        )
    return loads[name]
