"""What moves outside the image while it is made: the `[world]` section of an environment file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ditcache_rl.errors import closest
from ditcache_rl.files import is_there

#: Machines whose transfers `[world] transfers` may name; their figures are in `cache/rates.py`.
MACHINES = ("h100", "rtx4090")
#: Loads that `[world] loads` may name; what they are is in `world/load.py`.
LOADS = ("slow", "comparable", "fast", "slower", "burstier", "crowded")
#: Times of full compute that an image may be given: a machine more than busy is no place for it.
_LONGEST = 100


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """How memory is priced and taken away; without the section it is free and stays as it is.

    As soon as any of `transfers`, `memory_weight` and `caps` is given, `[cache]` names the bytes of
    every tier that one image has, and an episode is priced by where its entries would lie there.

    Attributes:
        loads: Kinds of load under which deadlines are learned to be kept: "slow", "comparable" and
            "fast" against an image, another of `world.load`, or the file of a recorded one beside
            this one: what was recorded where images are served is nearest to what is met there.
            Empty for no clock: then policies know no `deadline_s`.
        deadlines: Shortest and longest time that an image may take, over that of full compute on an
            unloaded machine; the agent is trained between the two. Above 1 where it never is
            unloaded, as under a recorded load.
        promised_share: Of the images, which are to be in time; more leaves less for their quality.
        images: Simulated ones that the agent learns on; a thousand take about a second.
        transfers: What moving an entry to and from slower tiers takes: "measured" on this machine,
            or the name of another one ("h100", "rtx4090"), on which a block stands for one of a
            large model. "" for no time at all.
        memory_weight: Charged for keeping one entry of every site on the device for as long as full
            compute takes, and in proportion for less; larger makes slower tiers pay.
        caps: Shares of `[cache] device_bytes` between which the cap of the device tier moves while
            an image is made; more of them and lower ones make placement matter. Empty for a cap
            that stays.
        dwell_steps: Steps that the cap stays where it is, on average; few against those of an image
            make what lies on the device a gamble.
        wait_weight: Weight on t / t_reference where computes are given: they don't fix the time any
            more, as entries are waited for or lost.
    """

    loads: list[str] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=lambda: [0.25, 0.6])
    promised_share: float = 0.95
    images: int = 51_000
    transfers: str = ""
    memory_weight: float = 0.0
    caps: list[float] = field(default_factory=list)
    dwell_steps: float = 4.0
    wait_weight: float = 1.0
    home: Path = field(default=Path(), metadata={"computed": True})

    @property
    def prices_memory(self) -> bool:
        """Whether it matters where entries lie."""
        return bool(self.transfers or self.memory_weight or self.caps)

    def faults(self) -> Iterator[tuple[str, object]]:
        """Yield every rule that a value breaks, with the value."""
        for name in self._unknown_loads():
            rule = f"loads must be among {list(LOADS)}, or files of recorded ones"
            yield f"{rule}.{closest(name, LOADS)}", repr(name)
        if len(self.deadlines) != 2 or not 0 < self.deadlines[0] < self.deadlines[1] <= _LONGEST:
            yield f"deadlines must be two that rise, in (0, {_LONGEST}]", self.deadlines
        if not 0 < self.promised_share < 1:
            yield "promised_share must lie in (0, 1)", self.promised_share
        if self.images < 1:
            yield "images must be >= 1", self.images
        known = ("", "measured", *MACHINES)
        if self.transfers not in known:
            yield f"transfers must be among {list(known)}", self.transfers
        if self.memory_weight < 0:
            yield "memory_weight must be >= 0", self.memory_weight
        if not all(0 <= share <= 1 for share in self.caps):
            yield "caps must lie in [0, 1]", self.caps
        if self.dwell_steps < 1:
            yield "dwell_steps must be >= 1", self.dwell_steps
        if self.wait_weight < 0:
            yield "wait_weight must be >= 0", self.wait_weight

    def _unknown_loads(self) -> list[str]:
        return [one for one in self.loads if one not in LOADS and not is_there(self.home / one)]
