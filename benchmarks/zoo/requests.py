"""Many requests on one transformer: what tests and benchmark ask of a server."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.rows import RowGaps, Unit, row_gaps
from benchmarks.zoo.tiny import PROMPTS, draw
from ditcache_rl import session
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import EveryK
from ditcache_rl.instrument import BlockRunner

#: What requests differ in: side, steps, guidance.
_SIDES, _STEPS = (32, 64, 96), (3, 4, 6)
#: Modes of eight rows, all different: at each step some rows compute and others do not.
ROW_TABLES = (
    (0, 0, 0, 0, 0, 0),
    (0, 1, 0, 2, 0, 3),
    (0, 0, 1, 1, 0, 2),
    (0, 1, 1, 0, 1, 1),
    (0, 0, 2, 0, 0, 3),
    (0, 1, 0, 1, 0, 1),
    (0, 0, 0, 1, 2, 0),
    (0, 1, 2, 0, 1, 0),
)


def mixed_request(number: int) -> Callable[[Any], Tensor]:
    """Return a request that draws on a pipeline: sizes, steps, guidance and prompts are mixed."""
    rng = random.Random(number)
    side, steps, prompt = rng.choice(_SIDES), rng.choice(_STEPS), rng.choice(PROMPTS)
    more = {"true_cfg_scale": 2.0, "negative_prompt": "a ring"} if rng.random() < 0.5 else {}

    def run(pipe: Any) -> Tensor:
        return draw(pipe, prompt, seeds=(number,), steps=steps, height=side, width=side, **more)

    return run


def threads_identical(
    pipe: Any, attach: Callable[[], AbstractContextManager[Any]], *, threads: int, each: int
) -> int:
    """Count the requests that draw the same among others as alone.

    Args:
        pipe: Is called through sessions.
        attach: Attaches it.
        threads: How many call it at the same time.
        each: Requests of each.
    """
    requests = [mixed_request(number) for number in range(threads * each)]
    with attach():
        alone = [_outcome(pipe, request) for request in requests]
    with attach(), ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(lambda request: _outcome(session(pipe), request), requests))
    return sum(
        a is not None and b is not None and torch.equal(a, b)
        for a, b in zip(alone, together, strict=True)
    )


def _outcome(pipe: Any, request: Callable[[Any], Tensor]) -> Tensor | None:
    try:
        return request(pipe)
    except (ValueError, RuntimeError, IndexError, TypeError):  # a peer that mixes its states up
        return None


def eight_rows(pipe: Any) -> RowGaps:
    """Compare a batch of eight rows, each with its own schedule, with the eight rows alone."""
    return row_gaps(prompted(pipe), range(len(ROW_TABLES)), ROW_TABLES)


def prompted(pipe: Any) -> Unit:
    """Make a unit of a FLUX pipeline with two guidance branches."""

    def batch(seeds: Sequence[int], large: bool, **more: Any) -> Tensor:
        return draw(
            pipe,
            [PROMPTS[seed % len(PROMPTS)] for seed in seeds],
            seeds=seeds,
            true_cfg_scale=2.0,
            negative_prompt=["a ring"] * len(seeds),
            **more,
        )

    return Unit(pipe, batch)


class Cancelled(Exception):
    """A client that has gone away."""


def cancel_identical(pipe: Any, *, steps: int = 20) -> tuple[int, int]:
    """Cancel at every step, then draw another size; return how many are right, and bytes left.

    Right is what a pipeline draws that was attached anew.
    """

    def other(p: Any) -> Tensor:
        return draw(p, PROMPTS[1], seeds=(5,), height=96, width=64)

    with BlockRunner(pipe, EveryK(2, order=1), TieredCache(), sites=2):
        fresh = other(pipe)
    right, left, cache = 0, 0, TieredCache()
    with BlockRunner(pipe, EveryK(2, order=1), cache, sites=2):
        for step in range(steps):
            try:
                draw(pipe, steps=steps, callback_on_step_end=_cancel_at(step))
            except Cancelled:
                left += cache.used_bytes
                right += torch.equal(other(pipe), fresh)
    return right, left


def _cancel_at(step: int) -> Callable[..., dict[str, Any]]:
    def callback(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index == step:
            raise Cancelled
        return tensors

    return callback
