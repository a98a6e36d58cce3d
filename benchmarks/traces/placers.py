"""Who says where entries go by a rule: the cache's own, Belady, and others."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import numpy as np

from benchmarks.traces.loops import SITES
from benchmarks.traces.requests import Past, Placing, StoreReplay, Tally
from benchmarks.traces.simulator import schedule_trace, simulate
from ditcache_rl.cache import NEVER, Outlook
from ditcache_rl.types import Modes, Tier


class Choice(IntEnum):
    """What an agent may do with the entry of a visit."""

    RULE = 0
    """What the cache does by itself."""
    DEVICE = 1
    """Keep it as if it were sure to be read at the next visit."""
    HOST = 2
    DROP = 3


def placed(replay: StoreReplay, choice: Choice) -> Placing:
    """Say what a choice means at the visit that is next."""
    coming = replay.now + SITES
    if choice is Choice.RULE:
        return Placing(Tier.DEVICE, Outlook(replay.now, coming, replay.chance))
    tier = Tier[choice.name]
    return Placing(tier, Outlook(replay.now, coming, float(tier is Tier.DEVICE)))


def rule(replay: StoreReplay) -> Placing:
    """Place as the cache does: the next visit weighed with its chance of reuse."""
    return placed(replay, Choice.RULE)


def counted(replay: StoreReplay) -> Placing:
    """Place as the cache does, with the chance that earlier requests had."""
    coming = replay.now + SITES
    return Placing(Tier.DEVICE, Outlook(replay.now, coming, replay.chance_in_past))


def graded(replay: StoreReplay) -> Placing:
    """Write the third of the sites that change least to host memory; all else as the cache does."""
    least = replay.past.share >= np.quantile(replay.past.share, 2 / 3)
    low = least[replay.site] and not replay.reads
    return placed(replay, Choice.HOST if low else Choice.RULE)


def belady(replay: StoreReplay) -> Placing:
    """Keep what is read soonest, and drop what is not read again; only hindsight knows."""
    tier = Tier.DROP if replay.next_read == NEVER else Tier.DEVICE
    return Placing(tier, Outlook(replay.now, replay.next_read))


#: Those who place by a rule of their own.
PLACERS: dict[str, Callable[[StoreReplay], Placing]] = {
    "belady": belady,
    "counted": counted,
    "default": rule,
    "graded": graded,
}
#: Classic rules, which always take a newcomer in; the store has none of them.
CLASSIC = ("mru", "lru")


def tally_of(name: str, modes: Modes, device_share: float, past: Past) -> Tally:
    """Play a whole request by the rule of that name."""
    if name in CLASSIC:
        found = simulate(schedule_trace(modes), round(device_share * SITES), name)
        return Tally(found.hits, found.reads - found.hits, 0)
    replay = StoreReplay(modes, device_share, past)
    while not replay.done:
        replay.play(PLACERS[name](replay))
    return replay.tally
