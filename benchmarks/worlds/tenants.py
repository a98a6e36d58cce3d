"""Other work that comes and goes on this machine, in processes of its own.

They import this module, so it takes no torch: its import would be the first of their work.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def _tenant(seed: int, stop: Any) -> None:
    """Work and rest by turns, as long as several images or shorter than one."""
    rng, parent = np.random.default_rng(seed), os.getppid()
    table = rng.standard_normal((256, 256))
    while not stop.is_set() and os.getppid() == parent:  # nobody waits for one that was killed
        until = time.perf_counter() + rng.exponential(float(rng.choice([0.15, 0.6, 3.0])))
        while time.perf_counter() < until:
            table = np.tanh(table @ table.T / 256)
        stop.wait(rng.exponential(float(rng.choice([0.15, 0.6, 3.0]))))


@contextmanager
def tenants(count: int, seed: int) -> Iterator[None]:
    """Have so many processes come and go."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    running = [
        context.Process(target=_tenant, args=(seed + place, stop), daemon=True)
        for place in range(count)
    ]
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        for one in running:
            one.start()
        yield
    finally:
        stop.set()
        for one in running:
            one.join()
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
