"""Workers on Ray, each with a pipeline of its own: they play rows, and draw for a board.

What a worker is asked tells it all that it must know: the tasks of its rows and the actions so far,
and where in Ray's store the references of its cases are. So Ray itself mends what dies: it starts
another worker and asks it again, which does the same. References travel once, to the learner and
to who needs them; of everything else numbers do, and tensors stay where they are made.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from ditcache_rl.bench import Board, Case
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.machine import require
from ditcache_rl.rl.worker import Worker

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
#: Logger of Ray that tells of tokens.
_TOKENS = "ray._private.authentication.authentication_token_setup"
#: Times that a worker is started again, and that it is asked again, before it is an error.
_TRIES = 8
#: Rounds of waiting for who is slow, each twice as long as the one before: after it the slow ones
#: are replaced, and who comes instead has to open its pipeline.
_ROUNDS = 4
#: How long a cluster may take to take a call, and to let a process join: that takes a few seconds.
_REACH_S, _JOIN_S = 5.0, 60.0
#: After how long it is said that cores are waited for, and for how long they are: those of a fleet
#: that has just ended are free in a second.
_SAID_S, _FREE_S = 3.0, 60.0


class Fleet:
    """Workers that answer questions; whoever dies or is slow is replaced and asked again.

    Args:
        actors: Handles of `Worker`.
        patience_s: How long an answer may take; whoever takes longer is replaced.
    """

    def __init__(self, actors: Sequence[Any], *, patience_s: float = 600.0) -> None:
        self._actors, self._patience_s = list(actors), patience_s
        #: Handles of the references that workers were told of, by board.
        self._told: WeakKeyDictionary[Board, dict[Case, Any]] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Count the workers."""
        return len(self._actors)

    def spread(
        self, board: Board, function: Callable[..., T], parts: Sequence[tuple[Any, ...]]
    ) -> Iterator[T]:
        """Do what `Board.spread` does: whoever is done gets the next part.

        Raises:
            BudgetError: As `answers`.
            DitcacheError: What a worker raised.
        """
        waiting, free = deque(enumerate(parts)), list(range(len(self)))
        under_way: dict[Any, tuple[int, int]] = {}  # by handle, the worker and the part
        found: dict[int, T] = {}
        for said in range(len(parts)):
            while said not in found:
                while waiting and free:
                    number, part = waiting.popleft()
                    known, worker = self.references(board, part[0]), free.pop()
                    _, asked = self.ask(worker, "run", board.steps, function, part, known)
                    under_way[asked] = worker, number
                workers = [(worker, asked) for asked, (worker, _) in under_way.items()]
                (done,) = self._first(workers, 1)
                worker, number = under_way.pop(done)
                (found[number],) = self._read([done])
                free.append(worker)
            yield found.pop(said)

    def share(self, value: T) -> Callable[[], T]:
        """Return what gives a value to workers, from Ray's store."""
        import ray

        return partial(ray.get, ray.put(value))

    def references(self, board: Board, cases: Sequence[Case]) -> dict[Case, Any]:
        """Return handles of those references of a board that are there, for its workers."""
        import ray

        told = self._told.setdefault(board, {})
        known = board.known(cases)
        told.update({c: ray.put(image.numpy()) for c, image in known.items() if c not in told})
        return {case: told[case] for case in known}

    def ask(self, worker: int, method: str, *arguments: Any) -> tuple[int, Any]:
        """Ask a worker; `answers` has what it says."""
        return worker, getattr(self._actors[worker], method).remote(*arguments)

    def answers(self, asked: Sequence[tuple[int, Any]]) -> list[Any]:
        """Wait for answers.

        Raises:
            BudgetError: If one does not come however often its worker is replaced.
            DitcacheError: What a worker raised.
        """
        self._first(asked, len(asked))
        return self._read([handle for _, handle in asked])

    def _first(self, asked: Sequence[tuple[int, Any]], count: int) -> list[Any]:
        """Wait for some answers, and replace who is silent; returns the handles of so many."""
        import ray

        handles = [handle for _, handle in asked]
        for turn in range(_ROUNDS):
            patience_s = self._patience_s * 2**turn
            found, late = ray.wait(handles, num_returns=count, timeout=patience_s)
            if len(found) == count:
                return list(found)
            for worker, handle in asked:
                if handle in late:
                    _LOG.warning("worker %d is replaced: silent for %g s", worker, patience_s)
                    ray.kill(self._actors[worker], no_restart=False)
        raise BudgetError(
            f"expected answers of workers in {self._patience_s:g} s, received none in {_ROUNDS} "
            "rounds, each twice as long as the one before; allow more, or ask for fewer rows"
        )

    def _read(self, handles: Sequence[Any]) -> list[Any]:
        import ray

        try:
            return list(ray.get(list(handles)))
        except ray.exceptions.RayActorError as error:
            raise BudgetError(
                f"expected workers that live, received one that died {_TRIES} times: "
                f"{str(error).splitlines()[0]}; give them more memory, or ask for fewer workers"
            ) from error


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
        ConfigError: If Ray is not installed or does not answer, or has no room for the workers, or
            others hold it for longer than a minute.
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
    from ray.util import remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    actors, room = list[Any](), None
    try:
        total = ray.cluster_resources()
        # Ray counts GPUs of this machine that torch cannot use, or is told to leave alone.
        used = address is not None or torch.cuda.is_available()
        used = used and config.pipeline.device != "cpu"
        gpus, cores = int(total.get("GPU", 0)) if used else 0, int(total.get("CPU", 1))
        machines = sum(name.startswith("node:") and "__" not in name for name in total)
        count = workers or gpus or machines
        if gpus and count > gpus:
            raise ConfigError(f"expected at most one worker per GPU, {gpus}, received {count}")
        each = max(1, cores // count)
        if each * count > cores:
            raise ConfigError(f"expected at most one worker per core, {cores}, received {count}")
        room = _room(each, 1 if gpus else 0, count)
        made = ray.remote(Worker).options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(room),
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
        if room is not None:
            remove_placement_group(room)
        if started:
            ray.shutdown()


def _room(cores: int, gpus: int, workers: int) -> Any:
    """Hold what all workers need, or nothing: two fleets never have a part each, and wait.

    Args:
        cores: Of a worker.
        gpus: Likewise.
        workers: How many.

    Raises:
        ConfigError: If it does not become free in time.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    def free() -> str:
        parts = {"CPU": "cores", **({"GPU": "GPUs"} if gpus else {})}
        found = ray.available_resources()
        return ", ".join(f"{found.get(name, 0):g} free {said}" for name, said in parts.items())

    share = {"CPU": cores, "GPU": gpus} if gpus else {"CPU": cores}
    wanted = f"room for {workers} workers of {', '.join(f'{n} {k}' for k, n in share.items())} each"
    room = placement_group([share] * workers)
    if room.wait(_SAID_S):
        return room
    _LOG.warning("waiting up to %g s for %s; there are %s", _FREE_S, wanted, free())
    if room.wait(_FREE_S):
        return room
    found = free()
    remove_placement_group(room)
    raise ConfigError(
        f"expected {wanted} within {_FREE_S:g} s, {cores * workers} cores in all, received "
        f"{found}; wait until who holds the others has ended, ask for other --workers, or take "
        "another cluster"
    )


def _connect(address: str | None) -> None:
    """Join a cluster, or begin one on this machine."""
    import ray

    own = {"include_dashboard": False} if address is None else {}
    # How to open one's own Ray to everybody on the network is nothing that a training must say.
    logging.getLogger(_TOKENS).setLevel(logging.ERROR)
    try:
        if address is not None:
            _try(address)
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **own
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"expected a Ray cluster at {address or 'this machine'!r}, received: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
            "; start one with `ray start --head`, or leave --ray out"
        ) from error


def _try(address: str) -> None:
    """Join a cluster in another process, as Ray itself tries for many minutes.

    Raises:
        OSError: If it takes too long, or fails.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # nobody there: told in seconds
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    command = [sys.executable, "-c", "import ray, sys; ray.init(sys.argv[1])", address]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_JOIN_S)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no answer of Ray within {_JOIN_S:g} s") from error
    except subprocess.CalledProcessError as error:
        raise OSError(error.stderr.strip().splitlines()[-1]) from error
