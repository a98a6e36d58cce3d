"""What rules of eviction would have done with a trace, to judge the one that the cache has.

Recency and frequency are here for comparison only: on a loop they evict exactly what comes next.
A fixed tier per site by its sensitivity is not here: what is least sensitive is read most often,
and with it in a slower tier the device serves 59.9 % of the reads of adaptive traces instead of
61.9 %.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from ditcache_rl.cache.placement import NEVER
from ditcache_rl.types import Mode, Modes


class Access(NamedTuple):
    """One write or read of a trace."""

    key: Hashable
    is_write: bool
    nbytes: int = 1


class Simulated(NamedTuple):
    """What a fast tier would have done."""

    reads: int
    hits: int
    dead_writes: int
    """Writes that no read follows before the next write."""

    @property
    def hit_rate(self) -> float:
        """Hits over reads; 1 without reads."""
        return self.hits / self.reads if self.reads else 1.0


class Resident(NamedTuple):
    """What a rule may know of an entry in the fast tier."""

    written: int
    touched: int
    reads: int
    next_use: int
    """Position of the next read before the next write, NEVER if there is none: the oracle's."""
    next_visit: int
    """Position of the next access of any kind as the loop lets it expect."""
    chance: float
    """Share of this key's visits that were reads, smoothed."""
    nbytes: int


#: Rules give what is kept longest the largest value, at a position in the trace.
Rule = Callable[[Resident, int], float]
RULES: dict[str, Rule] = {
    "belady": lambda r, now: 1 / ((r.next_use - now) * r.nbytes) if r.next_use < NEVER else 0.0,
    "farthest": lambda r, now: r.chance / (max(1, r.next_visit - now) * r.nbytes),
    "lru": lambda r, now: float(r.touched),
    "mru": lambda r, now: -float(r.touched),
    "lfu": lambda r, now: r.reads + r.touched / (now + 1) / 2,
    "fifo": lambda r, now: float(r.written),
}
#: Rules that may leave a newcomer outside; the classic ones always take it in.
_SELECTIVE = frozenset({"belady", "farthest"})
#: Rules that know the future: what is not read again is neither written nor kept.
_CLAIRVOYANT = frozenset({"belady"})


def simulate(trace: Sequence[Access], capacity: int, rule: str) -> Simulated:
    """Replay a trace on one fast tier with everything else behind it.

    A read that misses is served from behind and may then enter the tier; a write replaces what its
    key had.

    Args:
        trace: Accesses in order.
        capacity: Bytes of the tier.
        rule: Name in `RULES`.
    """
    value, selective, clairvoyant = RULES[rule], rule in _SELECTIVE, rule in _CLAIRVOYANT
    ahead = _next_reads(trace)
    held: dict[Hashable, Resident] = {}
    seen: dict[Hashable, tuple[int, int, int]] = {}  # last position, visits, reads
    used = reads = hits = 0
    for now, (key, is_write, nbytes) in enumerate(trace):
        last, visits, read_before = seen.get(key, (now, 0, 0))
        period = now - last or len(trace)
        seen[key] = now, visits + 1, read_before + (not is_write)
        resident = held.pop(key, None)
        used -= resident.nbytes if resident is not None else 0
        reads += not is_write
        hits += not is_write and resident is not None
        newcomer = Resident(
            written=now if is_write or resident is None else resident.written,
            touched=now,
            reads=0 if is_write or resident is None else resident.reads + 1,
            next_use=ahead[now],
            next_visit=now + period,
            chance=(read_before + (not is_write) + 1) / (visits + 3),
            nbytes=nbytes,
        )
        if (clairvoyant and newcomer.next_use == NEVER) or nbytes > capacity:
            continue
        ranked = sorted(held, key=lambda k: value(held[k], now))
        victims, room = [], capacity - used
        for candidate in ranked:
            if room >= nbytes:
                break
            if selective and value(held[candidate], now) >= value(newcomer, now):
                break
            victims.append(candidate)
            room += held[candidate].nbytes
        if room < nbytes:
            continue
        for victim in victims:
            used -= held.pop(victim).nbytes
        held[key] = newcomer
        used += nbytes
    dead = sum(a.is_write and n == NEVER for a, n in zip(trace, ahead, strict=True))
    return Simulated(reads, hits, dead)


def schedule_trace(modes: Modes, *, nbytes: int = 1) -> list[Access]:
    """Turn a (steps, sites) schedule of reuse into the accesses of its loop."""
    return [
        Access(site, bool(mode == Mode.COMPUTE), nbytes)
        for step in modes
        for site, mode in enumerate(step.tolist())
    ]


def _next_reads(trace: Sequence[Access]) -> list[int]:
    """Return for every access where its key is read next, NEVER if it is written before."""
    ahead = [NEVER] * len(trace)
    coming: dict[Hashable, int] = {}
    for now in range(len(trace) - 1, -1, -1):
        key, is_write, _ = trace[now]
        ahead[now] = coming.get(key, NEVER)
        coming[key] = NEVER if is_write else now
    return ahead
