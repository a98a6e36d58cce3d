"""Requests that an agent learns on, as an environment of Gymnasium."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from benchmarks.traces.placers import Choice, placed, rule
from benchmarks.traces.requests import FACTS, VISITS, Past, StoreReplay, Tally
from ditcache_rl.types import Floats, Modes

#: Loads that a recomputed site counts as when an agent learns. It costs hundreds: as the host has
#: room for everything, more than one is enough to speak against it, and hundreds drown all else.
_DEAR = 2.0


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

    def draw(self, rng: np.random.Generator) -> tuple[StoreReplay, Floats]:
        """Open a request, with the cost of each visit by the rule: (VISITS,)."""
        index = int(rng.integers(len(self._lots)))
        if index not in self._costs:
            replay = self._open(index)
            self._costs[index] = np.array(
                [cost_of(replay.play(rule(replay))) for _ in range(VISITS)]
            )
        return self._open(index), self._costs[index]

    def _open(self, index: int) -> StoreReplay:
        modes, share = self._lots[index]
        return StoreReplay(modes, share, self.past)


class PlacementEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One episode is a request, one step a visit.

    Observations are `FACTS`, actions a `Choice`. The reward is what the visit costs less than under
    the cache's own rule in the same request, in loads from the host.
    """

    def __init__(self, course: Course) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (len(FACTS),), np.float32)
        self.action_space = spaces.Discrete(len(Choice))
        self._course = course
        self._replay: StoreReplay | None = None
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
