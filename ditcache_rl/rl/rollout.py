"""Run a call in a worker thread whose controller waits for its decisions.

A thread and not a greenlet: torch keeps its grad mode per thread of the operating system.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from ditcache_rl.control import Controller
from ditcache_rl.errors import StateError
from ditcache_rl.types import Decision, RunInfo, StepInfo

ResultT = TypeVar("ResultT")


class _Unwind(BaseException):
    """Leaves a pipeline call that nobody wants any more; raised and caught here only."""


@dataclass(frozen=True, slots=True)
class Finished(Generic[ResultT]):
    """The call has returned."""

    result: ResultT


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


class Rollout(Generic[ResultT]):
    """One call of a pipeline, stepped from outside.

    `call` receives a controller and runs the pipeline under it. `advance` hands a decision in and
    returns the next step's `StepInfo`, or the result of the call once it has ended. An exception of
    the call comes out of `advance`. `close` unwinds a call that is still running; it is idempotent.

    Notes:
        The tensors of a `StepInfo` belong to the call and may be read until the next `advance`.
        Only one of the two threads runs at a time.
    """

    def __init__(self, call: Callable[[Controller], ResultT]) -> None:
        self._call = call
        self._decisions: SimpleQueue[Decision | None] = SimpleQueue()
        self._events: SimpleQueue[StepInfo | Finished[ResultT] | _Failed] = SimpleQueue()
        self._waiting = False
        self._thread = threading.Thread(target=self._run, name="ditcache-rollout", daemon=True)

    def start(self) -> StepInfo | Finished[ResultT]:
        """Run the call up to its first decision."""
        self._thread.start()
        return self._receive()

    def advance(self, decision: Decision) -> StepInfo | Finished[ResultT]:
        """Hand a decision in and run up to the next one.

        Raises:
            StateError: If the call is not waiting for a decision.
        """
        if not self._waiting:
            raise StateError(
                "expected a rollout that waits for a decision, received one that has ended"
            )
        self._waiting = False
        self._decisions.put(decision)
        return self._receive()

    def close(self) -> None:
        """Unwind the call if it is still running, and wait for its thread."""
        self._waiting = False
        if self._thread.is_alive():
            # Also after an interrupt in the middle of a step: the next decision finds the None.
            self._decisions.put(None)
            self._thread.join()

    def _receive(self) -> StepInfo | Finished[ResultT]:
        event = self._events.get()
        self._waiting = isinstance(event, StepInfo)
        if isinstance(event, _Failed):
            self._thread.join()
            raise event.error
        if isinstance(event, Finished):
            self._thread.join()
        return event

    def _run(self) -> None:
        try:
            result = self._call(_Waiting(self._events, self._decisions))
        except _Unwind:
            return
        except BaseException as error:  # the caller must see it whatever it is
            self._events.put(_Failed(error))
        else:
            self._events.put(Finished(result))


class _Waiting:
    """The controller of a rollout: it asks the other thread."""

    probe_blocks = 0

    def __init__(
        self,
        events: SimpleQueue[StepInfo | Finished[ResultT] | _Failed],
        decisions: SimpleQueue[Decision | None],
    ) -> None:
        self._events, self._decisions = events, decisions

    def reset(self, run: RunInfo) -> None:
        """Nothing belongs to the request."""

    def decide(self, info: StepInfo) -> Decision:
        """Hand the step out and wait."""
        self._events.put(info)
        decision = self._decisions.get()
        if decision is None:
            # Also for every later step of a call that caught this one: nobody will answer it.
            self._decisions.put(None)
            raise _Unwind
        return decision
