"""How much slower a machine is than at its best, over time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.types import Floats

#: What a compute takes beside one, two and three other tenants, over one alone.
_SLOWDOWNS = (1.0, 1.4, 2.0, 3.0)
#: Slots of a trace per compute of an unloaded machine.
SLOTS = 4


class LoadKind(NamedTuple):
    """Tenants that come and go: the slowdown jumps after exponential dwell times."""

    dwell_images: float
    """Mean time between two jumps, in times of one image on an unloaded machine."""
    slowdowns: tuple[float, ...] = _SLOWDOWNS
    """What is jumped between, each as likely as the others."""


#: Dwell times that are long, comparable with, and short against an image; and what no rule was
#: tuned on: a slower machine, bursts, a fourth tenant.
KINDS: dict[str, LoadKind] = {
    "slow": LoadKind(10.0),
    "comparable": LoadKind(1.0),
    "fast": LoadKind(0.2),
    "slower": LoadKind(1.0, tuple(1.5 * factor for factor in _SLOWDOWNS)),
    "burstier": LoadKind(0.1, (1.0, 1.0, 1.0, 4.0)),
    "crowded": LoadKind(1.0, (1.0, 1.4, 2.0, 3.0, 4.5)),
}


def find_kind(name: str) -> LoadKind:
    """Return a kind of load.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in KINDS:
        raise ConfigError(
            f"expected a load among {', '.join(KINDS)}, received {name!r}.{closest(name, KINDS)}"
        )
    return KINDS[name]


def generated(
    kind: LoadKind, rows: int, slots: int, *, image: float, rng: np.random.Generator
) -> Floats:
    """Draw traces: (rows, slots) slowdown in each slot.

    Args:
        kind: Of load.
        rows: Traces.
        slots: Of 1 / SLOTS computes each.
        image: Computes of one image.
        rng: Draws.
    """
    stay = np.exp(-1.0 / (kind.dwell_images * image * SLOTS))
    jumps = rng.random((rows, slots)) > stay
    jumps[:, 0] = True
    drawn = rng.integers(len(kind.slowdowns), size=(rows, slots))
    # Every slot has what was drawn at the last jump.
    last = np.maximum.accumulate(np.where(jumps, np.arange(slots), 0), axis=1)
    return np.array(kind.slowdowns)[np.take_along_axis(drawn, last, axis=1)]
