"""Processes that may hang, crash or be killed, and file systems that nobody else uses.

Children are forked, since importing torch two hundred times would take most of the time. Whoever
forks has no threads that matter, and a child ends without running anybody's clean-up.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.mishaps.outcome import Beat

#: After so long without a beat something hangs.
WATCHDOG_S = 30.0
_HUNG, _CRASHED = 97, 98
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of sched.h; os.unshare came with Python 3.12


class Ended(NamedTuple):
    """How a child ended."""

    result: Any
    """What its function returned; None if it did not come to that."""
    hung: bool
    crashed: bool
    status: int
    """Its exit status, negative for a signal."""


class Child:
    """A forked process that runs a function and sends back what it returns.

    Args:
        work: Gets a `beat` to call at least every few seconds.
    """

    def __init__(self, work: Callable[[Beat], Any]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._inlet, outlet = os.pipe()
        self._beats, beat = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._inlet)
            os.close(self._beats)
            _live(work, outlet, beat)
        os.close(outlet)
        os.close(beat)

    def kill(self) -> None:
        """End it as the system would: without warning."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, beat: Beat | None = None) -> Ended:
        """Wait for its end; a child that stands still is killed.

        Args:
            beat: Called when the child calls its own.
        """
        parts, hung, last = [], False, time.monotonic()
        waiting = {self._inlet, self._beats}
        while self._inlet in waiting:
            ready, _, _ = select.select(list(waiting), [], [], 1.0)
            for fd in ready:
                data = os.read(fd, 1 << 16)
                last = time.monotonic()
                if fd == self._inlet:
                    parts.append(data)
                elif beat is not None:
                    beat()
                if not data:
                    waiting.discard(fd)
            if not hung and time.monotonic() - last > WATCHDOG_S:
                hung = True
                os.kill(self.pid, signal.SIGABRT)  # faulthandler says where it stands
        os.close(self._inlet)
        os.close(self._beats)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        whole = b"".join(parts)
        result = pickle.loads(whole) if status == 0 and whole else None
        return Ended(result, hung, status != 0 and not hung, status)


def _live(work: Callable[[Beat], Any], outlet: int, beats: int) -> None:
    """Run the child's function, and end without the parent's clean-up."""
    status = _CRASHED
    try:
        faulthandler.enable(all_threads=True)
        os.set_blocking(beats, False)

        def beat() -> None:
            with suppress(BlockingIOError):  # nobody has looked for a while
                os.write(beats, b".")

        data = pickle.dumps(work(beat))
        sent = 0
        while sent < len(data):
            sent += os.write(outlet, data[sent:])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextmanager
def private_disk(folder: Path, nbytes: int) -> Iterator[None]:
    """Mount a file system in memory that only this process sees.

    Raises:
        PermissionError: If this process may not mount; containers often may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS):
        raise PermissionError(ctypes.get_errno(), "cannot make a mount namespace")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={nbytes},mode=700", "tmpfs", str(folder)]
    try:
        for command in (["mount", "--make-rprivate", "/"], mount):
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError(f"cannot mount: {error}") from error
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
