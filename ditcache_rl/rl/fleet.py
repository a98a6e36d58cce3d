"""Workers on Ray, each with a pipeline of its own: they play rows and score cases.

What a worker is asked tells it all that it must know: the tasks of an episode and the actions so
far. So Ray itself mends what dies: it starts another worker and asks it again, which plays the same
steps up to where the first one was. Tasks, actions, observations, masks, rewards and qualities
travel; tensors stay where they are made.
"""

from __future__ import annotations

import logging
import os
import socket
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ditcache_rl.bench import Board, Case, Quality
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import BudgetError, ConfigError, StateError
from ditcache_rl.machine import require
from ditcache_rl.rl.worker import Worker
from ditcache_rl.schedules import Schedule

_LOG = logging.getLogger(__name__)
#: Times that a worker is started again, and that it is asked again, before it is an error.
_TRIES = 8
#: Rounds of waiting for who is slow, each twice as long as the one before: after it the slow ones
#: are replaced, and who comes instead has to open its pipeline.
_ROUNDS = 4
#: How long a cluster may take to take a call.
_REACH_S = 5.0


class Fleet:
    """Workers that answer questions; whoever dies or is slow is replaced and asked again.

    Args:
        actors: Handles of `Worker`.
        patience_s: How long an answer may take; whoever takes longer is replaced.
    """

    def __init__(self, actors: Sequence[Any], *, patience_s: float = 600.0) -> None:
        self._actors, self._patience_s = list(actors), patience_s
        #: Whose cases are whose: a reference is drawn by one worker alone.
        self._homes: dict[Case, int] = {}
        #: Whose rows the workers play; whoever is forgotten plays no more.
        self._player: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        """Count the workers."""
        return len(self._actors)

    def lend(self, player: object) -> None:
        """Have the workers play for one alone, until `give_back`: each has one episode in mind.

        Raises:
            StateError: If they play for another one.
        """
        if self._player() not in (None, player):
            raise StateError(
                "expected a fleet that plays for nobody, received one whose workers play the rows "
                "of another environment, which steps of this one would break into; close that one "
                "first, or start a fleet for each"
            )
        self._player = weakref.ref(player)

    def give_back(self, player: object) -> None:
        """Play for it no more; of whoever plays not it changes nothing."""
        if self._player() is player:
            self._player = lambda: None

    def ask(self, worker: int, method: str, *arguments: Any) -> tuple[int, Any]:
        """Ask a worker; `answers` has what it says."""
        return worker, getattr(self._actors[worker], method).remote(*arguments)

    def answers(self, asked: Sequence[tuple[int, Any]]) -> list[Any]:
        """Wait for answers.

        Raises:
            BudgetError: If one does not come however often its worker is replaced.
            DitcacheError: What a worker raised.
        """
        import ray

        waited_for = [reference for _, reference in asked]
        try:
            for turn in range(_ROUNDS):
                patience_s = self._patience_s * 2**turn
                _, late = ray.wait(waited_for, num_returns=len(waited_for), timeout=patience_s)
                if not late:
                    return list(ray.get(waited_for))
                for worker, reference in asked:
                    if reference in late:
                        _LOG.warning("worker %d is replaced: silent for %g s", worker, patience_s)
                        ray.kill(self._actors[worker], no_restart=False)
        except ray.exceptions.RayActorError as error:
            raise BudgetError(
                f"expected workers that live, received one that died {_TRIES} times: "
                f"{str(error).splitlines()[0]}; give them more memory, or ask for fewer workers"
            ) from error
        raise BudgetError(
            f"expected answers of workers in {self._patience_s:g} s, received none in {_ROUNDS} "
            "rounds, each twice as long as the one before; allow more, or ask for fewer rows"
        )

    def score(self, steps: int, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        """Do what `Board.score` does, on all workers."""
        for case in cases:
            self._homes.setdefault(case, len(self._homes) % len(self))
        homes = np.array([self._homes[case] for case in cases])
        parts = [np.flatnonzero(homes == worker).tolist() for worker in range(len(self))]
        asked = [
            self.ask(worker, "score", steps, [cases[i] for i in part], [schedules[i] for i in part])
            for worker, part in enumerate(parts)
            if len(part)
        ]
        psnr_db, ssim = np.empty(len(cases)), np.empty(len(cases))
        for part, found in zip((p for p in parts if len(p)), self.answers(asked), strict=True):
            psnr_db[part], ssim[part] = found
        return Quality(psnr_db, ssim)


def shared(board: Board, fleet: Fleet | None) -> Board:
    """Let workers score in place of a board, if there are some; returns the board."""
    if fleet is not None:
        board.elsewhere = partial(fleet.score, board.steps)
    return board


@contextmanager
def fleet_of(
    config: EnvConfig,
    *,
    workers: int = 0,
    address: str | None = None,
    patience_s: float = 600.0,
) -> Iterator[Fleet | None]:
    """Start workers, and stop them in the end; where none are asked for there is no fleet.

    Args:
        config: The environment.
        workers: How many; with an address, 0 is one per GPU, or one per machine without GPUs.
        address: Of a Ray cluster; None for this machine alone.
        patience_s: As in `Fleet`.

    Raises:
        ConfigError: If Ray is not installed or does not answer, or has no room for the workers.
    """
    if not workers and address is None:
        yield None
        return
    require("ray", "ray")
    import ray

    # Nothing is reported to anybody, and devices of workers without one are left as they are.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started = not ray.is_initialized()
    if started:
        _connect(address)
    actors: list[Any] = []
    try:
        total = ray.cluster_resources()
        gpus, cores = int(total.get("GPU", 0)), int(total.get("CPU", 1))
        machines = sum(name.startswith("node:") and "__" not in name for name in total)
        count = workers or gpus or machines
        if gpus and count > gpus:
            raise ConfigError(f"expected at most one worker per GPU, {gpus}, received {count}")
        each = max(1, cores // count)
        if each * count > cores:
            raise ConfigError(f"expected at most one worker per core, {cores}, received {count}")
        made = ray.remote(Worker).options(
            num_cpus=each,
            num_gpus=1 if gpus else 0,
            max_restarts=_TRIES,
            max_task_retries=_TRIES,
        )
        actors = [made.remote(config, threads=0 if gpus else each) for _ in range(count)]
        yield Fleet(actors, patience_s=patience_s)
    finally:
        for actor in actors:
            ray.kill(actor)
        if started:
            ray.shutdown()


def _connect(address: str | None) -> None:
    """Join a cluster, or begin one on this machine."""
    import ray

    own = {"include_dashboard": False} if address is None else {}
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # told in seconds, where Ray tries for minutes
            socket.create_connection((host, int(port)), timeout=_REACH_S).close()
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **own
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"expected a Ray cluster at {address or 'this machine'!r}, received: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
            "; start one with `ray start --head`, or leave --ray out"
        ) from error
