"""Where the entries of one image would lie, decision by decision, without storing anything.

Follows the rules of the store and of a site's history entry by entry, with all entries of one size,
so that a placement has a price before anybody has a machine with these tiers: `tests/cache` holds
both against each other. Sites of a step are visited in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.cache.placement import NEVER, Habit, Outlook, keep_value, next_uses
from ditcache_rl.cache.rates import Transfers
from ditcache_rl.types import HISTORY, Mode, Modes, Tier, Tiers


class Stay(NamedTuple):
    """What a step did to the entries."""

    modes: Modes
    """(sites,) effective: what is not there any more is computed."""
    moved: float
    """Transfers, in units of computing one entry."""
    held: int
    """Entries on the device afterwards."""


@dataclass(slots=True, eq=False)
class _Entry:
    """An entry, by identity; `tier` is DROP when it is nowhere any more."""

    tier: Tier
    outlook: Outlook | None


@dataclass(slots=True)
class _Site:
    """What one site remembers, newest first."""

    entries: list[_Entry] = field(default_factory=list)
    valid: int = 0
    habit: Habit = field(default_factory=Habit)


class Residence:
    """The tiers of one image.

    Args:
        sites: Parts of the block stack.
        room: Entries that each tier which is there has room for; that of the device is the most
            that it ever has.
        transfers: What moving an entry takes.
        planned: (steps, sites) modes, if they are known: then nothing is stored in vain and what is
            needed last goes first. None where the future is guessed.
    """

    def __init__(
        self,
        sites: int,
        room: Mapping[Tier, int],
        transfers: Transfers,
        *,
        planned: Modes | None = None,
    ) -> None:
        self._room = dict(room)
        self._slower = [tier for tier in (Tier.HOST, Tier.DISK) if tier in room]
        self._transfers = transfers
        self._uses = None if planned is None else next_uses(planned[:, None])
        self._sites = [_Site() for _ in range(sites)]
        #: What lies in each tier, in the order in which it came there.
        self._held: dict[Tier, list[_Entry]] = {tier: [] for tier in room}
        self._now = self._step = self._place = 0
        self._moved = 0.0

    @property
    def free_share(self) -> float:
        """Unused share of what the device has room for now."""
        cap = self._room[Tier.DEVICE]
        return max(0.0, 1.0 - len(self._held[Tier.DEVICE]) / cap) if cap else 0.0

    @property
    def tiers(self) -> Tiers:
        """(sites,) where the newest entry of every site lies; DROP where there is none."""
        newest = [site.entries[0].tier if site.entries else Tier.DROP for site in self._sites]
        return np.array(newest, dtype=np.int8)

    @property
    def valid(self) -> NDArray[np.int64]:
        """(sites,) entries that every site knows."""
        return np.array([site.valid for site in self._sites])

    def resize(self, room: int) -> None:
        """Change the entries that the device has room for; what is worth least leaves it."""
        self._room[Tier.DEVICE] = room
        self._make_room(Tier.DEVICE, 0, None)

    def step(self, step: int, modes: Modes, tiers: Tiers) -> Stay:
        """Play a step.

        Args:
            step: 0-based, one after the other.
            modes: (sites,) wished.
            tiers: (sites,) wished for what is computed.
        """
        self._step = step
        effective = np.zeros_like(modes)
        for place, (site, mode, tier) in enumerate(zip(self._sites, modes, tiers, strict=True)):
            self._place = place
            effective[place] = self._read(site, int(mode))
            if effective[place] != Mode.COMPUTE:
                self._trim(site)
            elif tier != Tier.DROP:
                self._record(site, Tier(int(tier)))
        moved, self._moved = self._moved, 0.0
        return Stay(effective, moved, len(self._held[Tier.DEVICE]))

    def _read(self, site: _Site, mode: int) -> int:
        """Lower a mode to what is there."""
        site.habit.visit(mode != Mode.COMPUTE)
        found = 0
        for place, entry in enumerate(site.entries[: min(mode, site.valid)]):
            if entry.tier is Tier.DROP:
                break
            self._moved += self._transfers.get(entry.tier)
            self._note(entry, self._outlook(site, place))
            found += 1
        return min(mode, found)

    def _record(self, site: _Site, tier: Tier) -> None:
        uses = None if self._uses is None else self._uses[self._step, self._place]
        kept = HISTORY if uses is None else int((uses < NEVER).sum())
        survivors = site.entries[: max(0, kept - 1)]
        for entry in site.entries[len(survivors) :]:
            self._forget(entry)
        site.entries = survivors
        if kept:
            entry = _Entry(Tier.DROP, None)
            while not self._put(entry, tier, self._outlook(site, 0)):
                if not survivors:
                    break
                self._forget(survivors.pop())
            if entry.tier is not Tier.DROP:
                site.entries = [entry, *survivors]
        site.valid = min(site.valid + 1, len(site.entries))
        self._trim(site)

    def _trim(self, site: _Site) -> None:
        """Forget what nothing reads any more."""
        if self._uses is None:
            return
        kept = int((self._uses[self._step, self._place] < NEVER).sum())
        for entry in site.entries[kept:]:
            self._forget(entry)
        del site.entries[kept:]
        site.valid = min(site.valid, kept)

    def _outlook(self, site: _Site, place: int) -> Outlook | None:
        if self._uses is None and not self._slower:
            return None
        places = len(self._sites)
        now, weight = self._step * places + self._place, 1 / (1 + place)
        if self._uses is None:
            return Outlook(now, now + places, site.habit.chance * weight)
        step = int(self._uses[self._step, self._place, place])
        return Outlook(now, NEVER if step == NEVER else step * places + self._place, weight)

    def _put(self, entry: _Entry, tier: Tier, outlook: Outlook | None) -> bool:
        """Store an entry where it is wanted, else in a slower tier, else in a faster one."""
        there = [Tier.DEVICE, *self._slower]
        others = [t for t in there if t > tier] + [t for t in reversed(there) if t < tier]
        wanted = [tier] if tier in there else []
        return any(self._store(entry, level, outlook) for level in (*wanted, *others))

    def _store(self, entry: _Entry, level: Tier, outlook: Outlook | None) -> bool:
        if not self._fits(level, 1) and (
            outlook is None or not self._make_room(level, 1, self._worth(outlook))
        ):
            return False
        self._leave(entry)
        entry.tier = level
        self._held[level].append(entry)
        self._moved += self._transfers.put(level)
        self._note(entry, outlook)
        return True

    def _make_room(self, level: Tier, count: int, worth: float | None) -> bool:
        """Move what is worth less down, or out, until so many entries fit."""
        lower = [tier for tier in self._slower if tier > level]
        while not self._fits(level, count):
            victim = self._least(self._held[level], worth)
            if victim is None:
                return False
            if not any(self._store(victim, target, victim.outlook) for target in lower):
                self._forget(victim)
        return True

    def _least(self, held: Sequence[_Entry], below: float | None) -> _Entry | None:
        found, least = None, below
        for entry in held:
            worth = self._worth(entry.outlook)
            if least is None or worth < least:
                found, least = entry, worth
        return found

    def _worth(self, outlook: Outlook | None) -> float:
        return keep_value(outlook, 0 if outlook is None else max(outlook.now, self._now), 1)

    def _fits(self, level: Tier, count: int) -> bool:
        return len(self._held[level]) + count <= self._room[level]

    def _note(self, entry: _Entry, outlook: Outlook | None) -> None:
        entry.outlook = outlook
        if outlook is not None:
            self._now = outlook.now

    def _forget(self, entry: _Entry) -> None:
        self._leave(entry)
        entry.tier = Tier.DROP

    def _leave(self, entry: _Entry) -> None:
        if entry.tier is not Tier.DROP:
            self._held[entry.tier].remove(entry)
