"""Two threads that load and store beside the computation; loads go first."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any


class Urgency(IntEnum):
    """Order of jobs that wait: somebody will stand still for a read, nobody for a write."""

    READ = 0
    WRITE = 1
    STOP = 2  # when everything else is done


class Job:
    """Something to be done once, by a worker or by whoever needs it first.

    Attributes:
        result: What `work` returned; None until then and after a failure.
        error: What it raised.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._claim = threading.Lock()
        self._done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> bool:
        """Do it, unless somebody has begun before; return whether it was done here."""
        if not self._claim.acquire(blocking=False):
            return False
        try:
            self.result = self._work()
        except Exception as error:
            self.error = error.with_traceback(None)  # whose frames hold this job
        except BaseException as error:
            self.error = error
            raise
        finally:
            del self._work
            self._done.set()
        return True

    def cancel(self) -> None:
        """End it without doing it, unless somebody has begun."""
        if self._claim.acquire(blocking=False):
            del self._work
            self._done.set()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._done.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended; False if it has not by then."""
        return self._done.wait(timeout_s)


class Workers:
    """Threads that take jobs in order of urgency.

    Started by the first job; `close` ends them.
    """

    def __init__(self, count: int = 2) -> None:
        self._count = count
        self._jobs: queue.PriorityQueue[tuple[int, int, Job | None]] = queue.PriorityQueue()
        self._order = itertools.count()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

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
                self._jobs.put((urgency, next(self._order), job))
                return job
        job.run()
        return job

    def close(self) -> None:
        """End the threads after the jobs that they have begun; calling it twice is harmless."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
            for _ in threads:
                self._jobs.put((Urgency.STOP, next(self._order), None))
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _start(self) -> None:
        for index in range(self._count):
            thread = threading.Thread(
                target=_serve, args=(self._jobs,), name=f"ditcache-io-{index}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                return
            self._threads.append(thread)


def _serve(jobs: queue.PriorityQueue[tuple[int, int, Job | None]]) -> None:
    """Take jobs until told to stop; holds nothing of the store while it waits."""
    while True:
        job = jobs.get()[2]
        if job is None:
            return
        job.run()
        del job
