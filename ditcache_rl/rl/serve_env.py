"""The environments in which requests share a machine: one machine, or many that train."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ditcache_rl.control.actions import checked
from ditcache_rl.errors import StateError
from ditcache_rl.queueing.fronts import Bools, Ints
from ditcache_rl.rl.serving import OFFERED_DB, PricedMachines, Service
from ditcache_rl.rl.shared_vec_env import SharedVecEnv

_OBSERVATION_NAMES = tuple(Service.observation_names())
_ACTION_NAMES = tuple(f"{price_db:.3g} dB" for price_db in OFFERED_DB)
_ACTION = {"a price": len(OFFERED_DB)}


class ServeEnv(gym.Env[NDArray[np.float32], np.int64]):
    """Serve one trace of requests, choosing at every tick the price of a compute.

    An observation is what `observation_names` says, an action a place in `OFFERED_DB`, which
    `action_names` names in dB. `action_masks` tells which prices differ from each other in what is
    computed.

    Args:
        service: What requests are served in; `Service.nominal` by default.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (as gymnasium declares it)
    observation_names, action_names = _OBSERVATION_NAMES, _ACTION_NAMES

    def __init__(self, service: Service | None = None) -> None:
        self._service = service or Service.nominal()
        self._priced: PricedMachines | None = None
        observations, self.action_space = _spaces()
        self.observation_space = observations  # type: ignore[assignment]  # Box of float32

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a trace, and wait for its first request."""
        super().reset(seed=seed)
        self._priced = PricedMachines(self._service, self.np_random, 1)
        return self._priced.view.observation[0], {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Play a tick; the last one of a trace tells the mean PSNR, late and dropped ones at 0.

        Raises:
            StateError: If no episode is running.
            ShapeError: If the action is no price.
        """
        priced = self._running()
        if priced.machines.done[0]:
            raise StateError("expected reset after the last request of a trace was served")
        (reward,) = priced.play(checked(action, (), _ACTION)[None])
        done = bool(priced.machines.done[0])
        info = _outcome(priced, 0) if done else {}
        return priced.view.observation[0], float(reward), done, False, info

    def action_masks(self) -> Bools:
        """Return which prices are allowed now: (prices,)."""
        return np.asarray(self._running().view.masks[0])

    def _running(self) -> PricedMachines:
        if self._priced is None:
            raise StateError("expected reset before anything else")
        return self._priced


class ServeVecEnv(SharedVecEnv):
    """Many machines, each with its own trace; one begins a new trace when it has served the last.

    Args:
        service: What requests are served in.
        machines: Number of environments.
        rng: Draws the requests.
    """

    observation_names, action_names = _OBSERVATION_NAMES, _ACTION_NAMES

    def __init__(self, service: Service, machines: int, rng: np.random.Generator) -> None:
        self._service, self._rng = service, rng
        self._priced = PricedMachines(service, rng, machines)
        self._actions: Ints | None = None
        super().__init__(machines, *_spaces())

    def reset(self) -> VecEnvObs:
        """Begin a new trace on every machine."""
        self._priced = PricedMachines(self._service, self._rng, self.num_envs)
        return self._seen(slice(None))

    def step_async(self, actions: Ints) -> None:
        """Take the prices of all machines: (machines,).

        Raises:
            ShapeError: If they are none.
        """
        self._actions = checked(actions, (self.num_envs,), _ACTION)

    def step_wait(self) -> VecEnvStepReturn:
        """Play a tick on every machine."""
        if self._actions is None:
            raise StateError("expected step_async before step_wait")
        priced = self._priced
        rewards = priced.play(self._actions).astype(np.float32)
        self._actions = None
        dones = priced.machines.done
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        (ended,) = np.nonzero(dones)
        for machine in ended.tolist():
            last = self._seen(machine).copy()
            infos[machine] = {**_outcome(priced, machine), "terminal_observation": last}
        if len(ended):
            priced.restart(ended)
        return self._seen(slice(None)), rewards, dones, infos

    def action_masks(self) -> Bools:
        """Return which prices are allowed now: (machines, prices)."""
        return self._priced.view.masks

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _seen(self, machine: int | slice) -> NDArray[np.float32]:
        """Return the observation of a machine, or of all."""
        return self._priced.view.observation[machine]


def _spaces() -> tuple[spaces.Box, spaces.Discrete[np.int64]]:
    observations = spaces.Box(-10.0, 10.0, (len(_OBSERVATION_NAMES),), np.float32)
    return observations, spaces.Discrete(len(OFFERED_DB))


def _outcome(priced: PricedMachines, machine: int) -> dict[str, Any]:
    """Tell what became of the trace of a machine."""
    served = priced.machines.served
    return {
        "psnr_db": float(served.psnr_db[machine].mean()),
        "served_share": float(np.isfinite(served.finish_s[machine]).mean()),
        "computes": int(served.computes[machine].sum()),
    }
