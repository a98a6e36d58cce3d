"""Requests replayed on the store, visit by visit, with somebody who says where entries go.

All requests are of one pipeline: rates of change belong to its sites, noise to the request. Who
places knows what the cache and its controller know, and what earlier requests did; whether the next
visit reads an entry or computes it anew nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from benchmarks.traces.guesses import kind_schedule
from benchmarks.traces.loops import ENTRY, SITES, STEPS, Beside
from benchmarks.traces.simulator import schedule_trace, simulate
from ditcache_rl.cache import NEVER, Habit, Outlook, TieredCache, next_uses
from ditcache_rl.types import EntryKey, Floats, Mode, Modes, Tier

#: The kind of requests: every site refreshes when its change has passed a threshold.
KIND = 1
VISITS = STEPS * SITES
#: Age, in visits, that reads as 1.
_OLD = 8.0
#: Loads that a recomputed site counts as when an agent learns. It costs hundreds: as the host has
#: room for everything, more than one is enough to speak against it, and hundreds drown all else.
_DEAR = 2.0
FACTS = (
    "step_share",
    "site_share",
    "age",
    "read_now",
    "chance",
    "past_share",
    "past_share_at_age",
    "on_device",
    "device_free_share",
    "outranked_share",
    "device_share",
)
"""What is known at a visit, each in [0, 1]: where the loop is; visits since the site computed;
whether it reads now; the chance of reuse that the cache guesses from this request; the share of
reuse in earlier requests, of the site and of the site at this age; whether the entry is on the
device, what is free there, the share of the entries there that the cache thinks less of; and the
share of all entries that the device holds."""


class Choice(IntEnum):
    """What an agent may do with the entry of a visit."""

    RULE = 0
    """What the cache does by itself."""
    DEVICE = 1
    """Keep it as if it were sure to be read at the next visit."""
    HOST = 2
    DROP = 3


class Placement(NamedTuple):
    """Where an entry goes, and the future by which the store weighs it there."""

    tier: Tier
    outlook: Outlook


class Prices(NamedTuple):
    """Seconds that an entry costs which is read and not on the device."""

    load_s: float
    recompute_s: float


class Tally(NamedTuple):
    """What the reads of a request found."""

    hits: int
    loads: int
    recomputed: int

    @property
    def hit_share(self) -> float:
        """Share of the reads that the device served."""
        return self.hits / sum(self)

    def seconds(self, prices: Prices) -> float:
        """Price the others."""
        return self.loads * prices.load_s + self.recomputed * prices.recompute_s


class Past(NamedTuple):
    """What earlier requests of the pipeline did."""

    share: Floats
    """(SITES,) of a site's visits that read."""
    share_at_age: Floats
    """(SITES, STEPS) of those whose entry had an age, in visits."""


def requests(seeds: Sequence[int]) -> list[Modes]:
    """Draw the schedules of requests: (STEPS, SITES) each."""
    return [kind_schedule(KIND, seed) for seed in seeds]


def past_of(schedules: Sequence[Modes]) -> Past:
    """Count the reads of earlier requests, with half a read and half a refresh added to each."""
    reads, seen = np.full((SITES, STEPS), 0.5), np.ones((SITES, STEPS))
    sites = np.arange(SITES)
    for modes in schedules:
        age = np.zeros(SITES, dtype=np.int64)
        for row in modes[1:]:
            read = row != Mode.COMPUTE
            reads[sites, age] += read
            seen[sites, age] += 1
            age = np.where(read, age + 1, 0)
    return Past((reads - 0.5).sum(1) / (seen - 1).sum(1), reads / seen)


class Replay:
    """A request on a store of its own; the host has room for everything.

    Args:
        modes: (STEPS, SITES) what happens.
        device_share: Share of the sites' entries that the device holds.
        past: What earlier requests did.

    Attributes:
        now: The visit that is next: step * SITES + site.
        tally: What the reads found so far.
    """

    def __init__(self, modes: Modes, device_share: float, past: Past) -> None:
        self.device_share, self.past = device_share, past
        self.now, self.tally = 0, Tally(0, 0, 0)
        self._reads = modes != Mode.COMPUTE
        self._uses = next_uses(modes[:, None, :])[..., 0]
        room = round(device_share * SITES) * ENTRY
        self._cache = TieredCache(room, 2 * SITES * ENTRY, copier=Beside())
        self._keys = [EntryKey(0, 0, site, 0) for site in range(SITES)]
        self._entry = torch.ones(ENTRY // 4)
        self._habits = [Habit() for _ in range(SITES)]
        self._ages = [0] * SITES
        self._chances, self._visits = np.zeros(SITES), np.zeros(SITES)
        self._arrive()

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return self.now == VISITS

    @property
    def site(self) -> int:
        """Whose visit is next."""
        return self.now % SITES

    @property
    def reads(self) -> bool:
        """Whether it reads its entry, instead of computing a new one."""
        return bool(self._reads[self.now // SITES, self.site])

    @property
    def chance(self) -> float:
        """Of the entry being read at the visit after, as the cache guesses."""
        return self._habits[self.site].chance

    @property
    def chance_in_past(self) -> float:
        """The same, as earlier requests of the site at this age had it."""
        return float(self.past.share_at_age[self.site, self._ages[self.site]])

    @property
    def next_read(self) -> int:
        """The visit that reads the entry next, NEVER if it is computed before; hindsight."""
        step = int(self._uses[self.now // SITES, self.site])
        return NEVER if step == NEVER else step * SITES + self.site

    def facts(self) -> NDArray[np.float32]:
        """Return what is known at the visit: (FACTS,), before anything is moved."""
        site, chance, device = self.site, self.chance, self._cache.device
        there = [key.site for key in device.held() if key.site != site]
        worth = self._chances[there] / np.maximum(1, self._visits[there] - self.now)
        values = (
            self.now // SITES / (STEPS - 1),
            site / (SITES - 1),
            min(1.0, self._ages[site] / _OLD),
            self.reads,
            chance,
            self.past.share[site],
            self.chance_in_past,
            self._keys[site] in device,
            device.free_share,
            (worth < chance / SITES).mean() if there else 1.0,
            self.device_share,
        )
        return np.array(values, dtype=np.float32)

    def play(self, placement: Placement) -> Tally:
        """Read or compute the entry, and place it.

        Returns:
            What this visit's read found; nothing where it computed.
        """
        cache, key, (tier, outlook) = self._cache, self._keys[self.site], placement
        found, tensor = Tally(0, 0, 0), None
        if self.reads:
            hit = key in cache.device
            tensor = cache.get(key, outlook)
            found = Tally(int(hit), int(not hit and tensor is not None), int(tensor is None))
        if tier is Tier.DROP:
            cache.discard(key)
        elif tensor is None:
            cache.put(key, self._entry.clone(), tier, outlook)
        elif tier is not Tier.DEVICE and key in cache.device:
            cache.put(key, tensor, tier, outlook)
        self._chances[self.site] = outlook.chance
        self._visits[self.site] = self.now + SITES
        self.tally = Tally(*(a + b for a, b in zip(self.tally, found, strict=True)))
        self.now += 1
        if self.done:
            self.close()
        else:
            self._arrive()
        return found

    def close(self) -> None:
        """Give the store back; twice is harmless."""
        self._cache.close()

    def _arrive(self) -> None:
        """Note what the next visit does."""
        self._habits[self.site].visit(self.reads)
        self._ages[self.site] = self._ages[self.site] + 1 if self.reads else 0


def placed(replay: Replay, choice: Choice) -> Placement:
    """Say what a choice means at the visit that is next."""
    coming = replay.now + SITES
    if choice is Choice.RULE:
        return Placement(Tier.DEVICE, Outlook(replay.now, coming, replay.chance))
    tier = Tier[choice.name]
    return Placement(tier, Outlook(replay.now, coming, float(tier is Tier.DEVICE)))


def rule(replay: Replay) -> Placement:
    """Place as the cache does: the next visit weighed with its chance of reuse."""
    return placed(replay, Choice.RULE)


def counted(replay: Replay) -> Placement:
    """Place as the cache does, with the chance that earlier requests had."""
    coming = replay.now + SITES
    return Placement(Tier.DEVICE, Outlook(replay.now, coming, replay.chance_in_past))


def graded(replay: Replay) -> Placement:
    """Write the third of the sites that change least to host memory; all else as the cache does."""
    least = replay.past.share >= np.quantile(replay.past.share, 2 / 3)
    low = least[replay.site] and not replay.reads
    return placed(replay, Choice.HOST if low else Choice.RULE)


def belady(replay: Replay) -> Placement:
    """Keep what is read soonest, and drop what is not read again; only hindsight knows."""
    tier = Tier.DROP if replay.next_read == NEVER else Tier.DEVICE
    return Placement(tier, Outlook(replay.now, replay.next_read))


#: Those who place by a rule of their own.
PLACERS: dict[str, Callable[[Replay], Placement]] = {
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
    replay = Replay(modes, device_share, past)
    while not replay.done:
        replay.play(PLACERS[name](replay))
    return replay.tally


def cost_of(found: Tally) -> float:
    """Price a visit as an agent learns it, in loads from the host."""
    return found.loads + _DEAR * found.recomputed


class Course:
    """Requests to learn on, each with what every visit costs under the cache's own rule.

    Args:
        schedules: Of the requests.
        device_shares: Sizes of the device that an agent meets.
        past: What earlier requests did.
    """

    def __init__(
        self, schedules: Sequence[Modes], device_shares: Sequence[float], past: Past
    ) -> None:
        self.past = past
        self._lots = [(modes, share) for modes in schedules for share in device_shares]
        self._costs: dict[int, Floats] = {}

    def draw(self, rng: np.random.Generator) -> tuple[Replay, Floats]:
        """Open a request, with the cost of each visit by the rule: (VISITS,)."""
        index = int(rng.integers(len(self._lots)))
        if index not in self._costs:
            replay = self._open(index)
            self._costs[index] = np.array(
                [cost_of(replay.play(rule(replay))) for _ in range(VISITS)]
            )
        return self._open(index), self._costs[index]

    def _open(self, index: int) -> Replay:
        modes, share = self._lots[index]
        return Replay(modes, share, self.past)


class PlacementEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One episode is a request, one step a visit.

    Observations are `FACTS`, actions a `Choice`. The reward is what the visit costs less than under
    the cache's own rule in the same request, in loads from the host.
    """

    def __init__(self, course: Course) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (len(FACTS),), np.float32)
        self.action_space = spaces.Discrete(len(Choice))
        self._course = course
        self._replay: Replay | None = None
        self._rule = np.zeros(VISITS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a request."""
        super().reset(seed=seed)
        self.close()
        self._replay, self._rule = self._course.draw(self.np_random)
        return self._replay.facts(), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Play a visit."""
        replay = self._replay
        assert replay is not None
        usual = self._rule[replay.now]
        cost = cost_of(replay.play(placed(replay, Choice(int(action)))))
        obs = np.zeros(len(FACTS), np.float32) if replay.done else replay.facts()
        return obs, float(usual - cost), replay.done, False, {}

    def close(self) -> None:
        """End the request."""
        if self._replay is not None:
            self._replay.close()
