"""The memory of a world that moves: what it takes away while an image is made, and what it charges.

Prices are reckoned from what would lie where, so that the same decisions cost the same on every
machine and in every batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ditcache_rl.bench.board import Board
from ditcache_rl.cache import Caps, TieredCache
from ditcache_rl.cache.rates import Transfers, measure_transfers, named_transfers
from ditcache_rl.cache.residence import Residence
from ditcache_rl.config import EnvConfig, memory_bytes, parse_bytes
from ditcache_rl.schedules import CostModel, Schedule
from ditcache_rl.types import Floats, MemoryView, Mode, Modes, Tier, Tiers

#: Slots of a slab are whole pages.
_ROUNDING = 1 << 16
#: Of a disk that an environment does not limit: no image has more entries.
_PLENTY = 1 << 20


class Bill(NamedTuple):
    """What an image owes beside its computes; one number per row each."""

    wait_share: Floats
    """Seconds of waiting for transfers, over those of full compute."""
    resident_share: Floats
    """Device bytes times seconds, over those of an entry of every site during full compute."""


@dataclass(frozen=True, slots=True)
class MemoryWorld:
    """How the memory of one image behaves and what it costs.

    Attributes:
        cost: Prices of computing.
        room: Entries that each tier has room for.
        transfers: What moving an entry takes.
        caps: Shares of the device's room between which it moves; empty where it stays.
        dwell_steps: Mean steps between two moves.
    """

    cost: CostModel
    room: Mapping[Tier, int]
    transfers: Transfers
    caps: Sequence[float] = ()
    dwell_steps: float = 4.0

    @classmethod
    def of(
        cls,
        config: EnvConfig,
        board: Board,
        cost: CostModel,
        transfers: Transfers | None = None,
    ) -> MemoryWorld:
        """Read what an environment says, for entries of the size that its board has.

        Args:
            config: The environment.
            board: Its pipeline.
            cost: Prices of computing.
            transfers: What moving an entry takes, where that was measured before; None to look it
                up or measure it.
        """
        cache, device = config.cache, torch.device(board.pipe.device)
        sizes = {
            Tier.DEVICE: (cache.device_bytes, memory_bytes(device)),
            Tier.HOST: (cache.host_bytes, memory_bytes(torch.device("cpu"))),
            Tier.DISK: (cache.disk_bytes, _PLENTY * board.entry_bytes),
        }
        room = {
            tier: parse_bytes(text, total=total) // board.entry_bytes
            for tier, (text, total) in sizes.items()
            if text
        }
        found = transfers or transfers_of(config, board, cost)
        return cls(cost, room, found, config.world.caps, config.world.dwell_steps)

    def moves(self, seed: int) -> NDArray[np.int64]:
        """Draw how many entries the device has room for: (steps,).

        A cap stays for a geometric number of steps, and changes to another one.
        """
        steps, most = self.cost.num_inference_steps, self.room[Tier.DEVICE]
        if not self.caps:
            return np.full(steps, most)
        rng = np.random.default_rng(seed)
        found = np.empty(steps, dtype=np.int64)
        level = int(rng.integers(len(self.caps)))
        for step in range(steps):
            if step and len(self.caps) > 1 and rng.random() < 1 / self.dwell_steps:
                level = (level + 1 + int(rng.integers(len(self.caps) - 1))) % len(self.caps)
            found[step] = int(self.caps[level] * most)
        return found

    def begin(self, seed: int, planned: Modes | None = None) -> ImageMemory:
        """Start an image; the seed says how caps move, `planned` is as in `Residence`."""
        return ImageMemory(self, self.moves(seed), planned)

    def play(self, schedule: Schedule, seed: int, *, known: bool = True) -> ImageMemory:
        """Play a schedule to its end.

        Args:
            schedule: What is wished; without tiers all is kept on the device, as far as it fits.
            seed: How caps move.
            known: Whether the cache knows the schedule beforehand, as it does of static ones, or
                guesses.
        """
        memory = self.begin(seed, schedule.modes if known else None)
        tiers = schedule.tiers
        if tiers is None:
            tiers = np.full_like(schedule.modes, Tier.DEVICE)
        for modes, wished in zip(schedule.modes, tiers, strict=True):
            memory.advance()
            memory.act(modes, wished)
        return memory


class ImageMemory:
    """The tiers of one image while it is made: `advance`, look, `act`, step by step.

    Attributes:
        modes: Effective modes of the steps so far, (sites,) each.
    """

    def __init__(self, world: MemoryWorld, caps: NDArray[np.int64], planned: Modes | None) -> None:
        self._world, self._caps = world, caps
        self._residence = Residence(
            world.cost.sites,
            {**world.room, Tier.DEVICE: int(caps[0])},
            world.transfers,
            planned=planned,
        )
        self.modes: list[Modes] = []
        self._wait_s = self._held_s = 0.0

    def advance(self) -> MemoryView:
        """Let the world take memory or give it back; return what a decision may look at."""
        cap = int(self._caps[len(self.modes)])
        self._residence.resize(cap)
        most = self._world.room[Tier.DEVICE]
        residence, share = self._residence, cap / most if most else 0.0
        return MemoryView(residence.free_share, share, residence.tiers, residence.valid)

    def act(self, modes: Modes, tiers: Tiers) -> Modes:
        """Play a step as it is wished; return the effective modes."""
        cost = self._world.cost
        stay = self._residence.step(len(self.modes), modes, tiers)
        self.modes.append(stay.modes)
        computed = stay.modes == Mode.COMPUTE
        busy_s = cost.site_s * computed.sum()
        # Copies run beside what the step computes; what is left of them is waited for.
        wait_s = max(0.0, stay.moved * cost.site_s - busy_s)
        forecasts = (stay.modes >= Mode.FORECAST1).sum()
        self._wait_s += wait_s
        self._held_s += stay.held * (cost.step_s + busy_s + cost.forecast_s * forecasts + wait_s)
        return stay.modes

    @property
    def bill(self) -> tuple[float, float]:
        """The numbers of `Bill` for this image."""
        cost = self._world.cost
        return (
            self._wait_s / cost.reference_s,
            self._held_s / (cost.sites * cost.reference_s),
        )


def bill_of(images: Sequence[ImageMemory]) -> Bill:
    """Put the bills of the rows of a call together."""
    return Bill(*np.array([image.bill for image in images], dtype=np.float64).T)


def transfers_of(config: EnvConfig, board: Board, cost: CostModel) -> Transfers:
    """Look up what an environment says that moving an entry takes, or measure it."""
    name = config.world.transfers
    if not name:
        return Transfers()
    if name != "measured":
        return named_transfers(name)
    device, room = torch.device(board.pipe.device), 4 * board.entry_bytes + _ROUNDING
    cache = TieredCache.under(
        Caps(
            None,
            room if config.cache.host_bytes else None,
            room if config.cache.disk_bytes else None,
            Path(config.cache.cache_dir).expanduser() if config.cache.cache_dir else None,
        ),
        device=device,
    )
    try:
        return measure_transfers(cache, board.entry_bytes, compute_s=cost.site_s, device=device)
    finally:
        cache.close()
