"""The environments in which images have deadlines: simulated ones, thousands at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ditcache_rl.config import find_policy
from ditcache_rl.control.actions import checked
from ditcache_rl.errors import ConfigError, StateError
from ditcache_rl.policy import Policy, load_policy
from ditcache_rl.rl.shared_vec_env import SharedVecEnv
from ditcache_rl.types import MOST_STEPS, Floats
from ditcache_rl.world import Pacer, Requests, Senses, played
from ditcache_rl.world.agent import ACTIONS, AGENT_NAMES, allowed
from ditcache_rl.world.load import find_load
from ditcache_rl.world.tuning import SPARE

#: How fast the price of lateness follows the share in time, per rollout.
_ASCENT = 4.0
#: Prices of lateness, beyond the quality that a late image loses; and where they begin.
_PRICES, _PRICE = (0.0, 20.0), 1.0
#: Kinds of load that the shipped environment trains under.
LOADS = ("slow", "comparable", "fast")

#: What an action is called, and what an observation shows, in order.
ACTION_NAMES = ("skip", "compute")
OBSERVATION_NAMES = (*AGENT_NAMES, *(f"prior/{name}" for name in ACTION_NAMES))
_ACTION = {"an action": ACTIONS}


class PacedImages:
    """A batch of images as a game: whoever plays tells at every step which of them compute.

    An image in time is worth its PSNR in dB, over ten, and the price of lateness; a late one is
    worth nothing. Rewards add up to that less what the prior earns on the same image, and less the
    60 dB of an image without gaps, over ten. They are handed out as the quality falls.

    Args:
        requests: The images, at their first step.
        senses: What is read with, and the prior.
        price: (rows,) of lateness.
    """

    def __init__(self, requests: Requests, senses: Senses, price: Floats) -> None:
        self.requests, self._senses, self._price = requests, senses, price
        self.baseline = self._worth(*played(requests.again(), senses.prior))
        self._look()

    @property
    def done(self) -> bool:
        """Whether the last step has been played."""
        return self.requests.step == self.requests.steps

    def play(self, actions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Play a step: (rows,) actions to (rows,) rewards.

        An action that is not allowed is played as the other one.
        """
        before = self._so_far
        may_skip, may_compute = self.masks.T
        self.requests.play(may_compute & (~may_skip | (actions == 1)))
        if self.done:
            rewards = self._worth(*self.requests.outcome()) - self.baseline - before
        else:
            self._look()
            rewards = self._so_far - before
        return np.asarray(rewards, dtype=np.float32)

    def _look(self) -> None:
        moment = self.requests.moment()
        #: (rows, OBSERVATION_NAMES), and (rows, ACTIONS) whether an action is allowed.
        self.seen, self.masks = self._senses.read(moment), allowed(moment)
        #: (rows,) what the image is worth if everything from here on is computed.
        self._so_far = self.requests.so_far() / 10

    def _worth(self, psnr_db: Floats, in_time: NDArray[np.bool_]) -> Floats:
        return np.where(in_time, psnr_db / 10 + self._price, 0.0)


class DeadlineEnv(gym.Env[NDArray[np.float32], np.int64]):
    """Keep the deadline of one simulated image, telling at every step whether it computes.

    An observation is what `observation_names` says, an action a place in `action_names`; rewards
    are those of `PacedImages`.

    Args:
        policy: Folder or name of a policy that keeps deadlines, whose pipeline is simulated.
        loads: Kinds of load, of which each image has one.
        price: Of lateness, in tens of dB beyond the quality that is lost.

    Raises:
        ConfigError: If there is no such policy or load, or the policy keeps no deadlines.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (as gymnasium declares it)
    observation_names, action_names = OBSERVATION_NAMES, ACTION_NAMES

    def __init__(
        self,
        policy: str | Path = "shapes-ppo",
        *,
        loads: Sequence[str] = LOADS,
        price: float = _PRICE,
    ) -> None:
        pacer = pacer_of(load_policy(find_policy(policy)))
        self._world, self._senses = pacer.world, pacer.agent.senses
        self._loads, self._price = tuple(loads), price
        for load in self._loads:
            find_load(load, self._world.loads)
        self._images: PacedImages | None = None
        self.observation_space: Any = _observations()
        self.action_space: Any = spaces.Discrete(ACTIONS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a load, a deadline and what the machine did before."""
        super().reset(seed=seed)
        load = str(self.np_random.choice(self._loads))
        requests = self._world.draw([load], 1, self.np_random)
        self._images = PacedImages(requests, self._senses, np.array([self._price]))
        return self._images.seen[0].copy(), {"load": load, "given": float(requests.given[0])}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Play a step; the last one tells `psnr_db` and `in_time`.

        Raises:
            ShapeError: If the action is none.
            StateError: If no episode is running.
        """
        images = self._running()
        if images.done:
            raise StateError("expected reset after the last step of an image")
        (reward,) = images.play(checked(action, (), _ACTION)[None])
        info: dict[str, Any] = {}
        if images.done:
            psnr_db, in_time = images.requests.outcome()
            computes = int(images.requests.computed[0])
            info = {"psnr_db": float(psnr_db[0]), "in_time": bool(in_time[0]), "computes": computes}
        return images.seen[0].copy(), float(reward), images.done, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return whether leaving the step out and computing it are allowed: (2,)."""
        return np.asarray(self._running().masks[0])

    def _running(self) -> PacedImages:
        if self._images is None:
            raise StateError("expected reset before anything else")
        return self._images


class DeadlineVecEnv(SharedVecEnv):
    """Rows of simulated images that end together; rewards are those of `PacedImages`.

    After every batch the prices of lateness move to where the promise is just kept (dual ascent).

    Args:
        draw: Begins a batch of images, of equally many rows under each load.
        senses: What the policy reads with and starts from.
        loads: Loads in a batch, each with a price of its own.
        promised: Share of images that must be in time under each.
    """

    observation_names, action_names = OBSERVATION_NAMES, ACTION_NAMES

    def __init__(
        self, draw: Callable[[], Requests], senses: Senses, *, loads: int, promised: float
    ) -> None:
        self._draw, self._senses, self._promised = draw, senses, promised
        self.prices = np.full(loads, _PRICE)
        self._actions: NDArray[np.int64] | None = None
        #: Of the newest batch: share in time by load; PSNR in dB, and that with 0 for late images.
        self.kept, self.psnr_db, self.score_db = np.full(loads, np.nan), np.nan, np.nan
        self._images = self._begun()
        actions = spaces.MultiDiscrete([ACTIONS])
        super().__init__(self._images.requests.rows, _observations(), actions)

    @classmethod
    def of(
        cls,
        policy: str | Path = "shapes-ppo",
        *,
        rows: int = 1020,
        loads: Sequence[str] = LOADS,
        seed: int = 0,
    ) -> Self:
        """Simulate the pipeline of a policy that keeps deadlines.

        Args:
            policy: Folder or name.
            rows: Images of a batch.
            loads: Kinds of load, as many rows under each.
            seed: Of everything that is drawn.

        Raises:
            ConfigError: If there is no such policy or load, the policy keeps no deadlines, or there
                are more loads than rows.
        """
        if not 1 <= len(loads) <= rows:
            raise ConfigError(
                f"expected a load or more, and a row for each, received {len(loads)} loads and "
                f"{rows} rows"
            )
        pacer = pacer_of(load_policy(find_policy(policy)))
        rng = np.random.default_rng(seed)
        return cls(
            lambda: pacer.world.draw(loads, rows, rng),
            pacer.agent.senses,
            loads=len(loads),
            promised=pacer.pacing.promised_share + SPARE,
        )

    def reset(self) -> VecEnvObs:
        """Begin a batch of images."""
        self._images = self._begun()
        return self._images.seen

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of all rows: (rows, 1).

        Raises:
            ShapeError: If they are none.
        """
        self._actions = checked(actions, (self.num_envs, 1), _ACTION)[:, 0]

    def step_wait(self) -> VecEnvStepReturn:
        """Play a step; after the last one a new batch has begun."""
        if self._actions is None:
            raise StateError("expected step_async before step_wait")
        images, rows = self._images, self.num_envs
        rewards = images.play(self._actions)
        self._actions = None
        infos: list[dict[str, Any]] = [{} for _ in range(rows)]
        if not images.done:
            return images.seen, rewards, np.zeros(rows, dtype=bool), infos
        psnr_db, in_time = images.requests.outcome()
        self.kept = np.array([part.mean() for part in np.array_split(in_time, len(self.prices))])
        self.psnr_db = float(psnr_db[in_time].mean()) if in_time.any() else np.nan
        self.score_db = float(np.where(in_time, psnr_db, 0.0).mean())
        for info, seen in zip(infos, images.seen, strict=True):
            info["terminal_observation"] = seen
        moved = self.prices + _ASCENT * (self._promised - self.kept)
        self.prices = np.clip(moved, *_PRICES)
        return self.reset(), rewards, np.ones(rows, dtype=bool), infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return whether leaving a step out and computing it are allowed: (rows, 2)."""
        return self._images.masks

    def close(self) -> None:
        """Nothing is open."""

    def _begun(self) -> PacedImages:
        requests = self._draw()
        parts = np.array_split(np.arange(requests.rows), len(self.prices))
        price = np.repeat(self.prices, [len(part) for part in parts])
        return PacedImages(requests, self._senses, price)


def pacer_of(policy: Policy) -> Pacer:
    """Return what keeps deadlines in a policy, with an agent.

    Raises:
        ConfigError: If it has none.
    """
    pacer = policy.pacer
    if pacer is None or pacer.network is None:
        raise ConfigError(
            "expected a policy that keeps deadlines, with an agent, received one of "
            f"{policy.manifest.env_id} without; train one in an environment with [world] loads"
        )
    return pacer


def _observations() -> spaces.Box:
    # Most numbers are of order one; a forecast counts steps.
    return spaces.Box(-MOST_STEPS, MOST_STEPS, (len(OBSERVATION_NAMES),), np.float32)
