"""Two threads that load and store beside the computation; loads go first."""

from __future__ import annotations

import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any

#: Longest wait for what may never come back, as a thread that stands in a system call.
FAREWELL_S = 5.0


class Urgency(IntEnum):
    """Order of jobs that wait: somebody will stand still for a read, nobody for a write."""

    READ = 0
    WRITE = 1


class Job:
    """Something to be done once, by a worker or by whoever needs it first.

    Attributes:
        result: What `work` returned; None until then and after a failure.
        error: What it raised.
        done: Whether it has ended.
    """

    __slots__ = ("_claim", "_end", "_work", "done", "error", "result")

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work: Callable[[], Any] | None = work
        self._claim = threading.Lock()
        # A lock that is taken until the end: a tenth of the price of an event.
        self._end = threading.Lock()
        self._end.acquire()
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> bool:
        """Do it, unless somebody has begun before; return whether it was done here."""
        if not self._claim.acquire(blocking=False):
            return False
        work = self._work
        assert work is not None
        try:
            self.result = work()
        except Exception as error:
            self.error = error.with_traceback(None)  # whose frames hold this job
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._finish()
        return True

    def end(self) -> None:
        """Do it here if nobody has begun, and wait for it: nobody works on it afterwards."""
        if not self.run():
            self.wait()

    def cancel(self) -> None:
        """End it without doing it, unless somebody has begun."""
        if self._claim.acquire(blocking=False):
            self._finish()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended; False if it has not by then."""
        if not self.done and self._end.acquire(timeout=-1 if timeout_s is None else timeout_s):
            self._end.release()  # for whoever else waits
        return self.done

    def _finish(self) -> None:
        self._work = None
        self.done = True
        self._end.release()


class Workers:
    """Threads that take jobs in order of urgency.

    Started by the first job. `close` ends them, and so does dropping this.

    Notes:
        There are as many tokens as jobs, and one more for each thread that is to end; who takes a
        token takes the most urgent job. Queues of jobs are deques: all of this runs in C, and
        handing a job over takes less than the work that is worth it.
    """

    def __init__(self, count: int = 2) -> None:
        self._count = count
        self._queues: tuple[deque[Job], ...] = tuple(deque() for _ in Urgency)
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False
        self._dismiss = weakref.finalize(self, _dismiss, self._tokens, count)

    def submit(self, work: Callable[[], Any], urgency: Urgency) -> Job:
        """Queue a job; after `close` it is left to whoever needs it.

        Where the system gives this process no thread it is done at once, by the caller.
        """
        job = Job(work)
        with self._lock:
            if self._closed:
                return job
            if not self._threads:
                self._start()
            if self._threads:
                self._queues[urgency].append(job)
                self._tokens.put(None)
                return job
        job.run()
        return job

    def close(self) -> None:
        """End the threads after the jobs that wait; calling it twice is harmless."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
            self._dismiss()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(FAREWELL_S)

    def _start(self) -> None:
        for index in range(self._count):
            thread = threading.Thread(
                target=_serve,
                args=(self._queues, self._tokens),
                name=f"ditcache-io-{index}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:
                return
            self._threads.append(thread)


def _dismiss(tokens: queue.SimpleQueue[None], count: int) -> None:
    """Let threads end once no job waits."""
    for _ in range(count):
        tokens.put(None)


def _serve(queues: tuple[deque[Job], ...], tokens: queue.SimpleQueue[None]) -> None:
    """Take jobs until told to stop; holds nothing of the store while it waits."""
    while True:
        tokens.get()
        job = _next(queues)
        if job is None:
            return
        job.run()
        del job


def _next(queues: tuple[deque[Job], ...]) -> Job | None:
    for waiting in queues:
        try:
            return waiting.popleft()
        except IndexError:
            continue
    return None
