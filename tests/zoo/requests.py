"""Many requests on one transformer: what tests and benchmark ask of a server."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from ditcache_rl import session
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import EveryK
from ditcache_rl.instrument import BlockRunner, Ranks
from ditcache_rl.instrument.history import SiteHistory
from ditcache_rl.types import Decision
from tests.pipelines import PROMPTS, draw
from tests.zoo.checks import RowGaps, Unit, row_gaps

#: What requests differ in: side, steps, guidance.
_SIDES, _STEPS = (32, 64, 96), (3, 4, 6)
#: Modes of eight rows, all different: at each step some rows compute and others do not.
_ROW_TABLES = (
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

    def batch(seeds: Sequence[int], large: bool) -> Tensor:
        return draw(
            pipe,
            [PROMPTS[seed % len(PROMPTS)] for seed in seeds],
            seeds=seeds,
            true_cfg_scale=2.0,
            negative_prompt=["a ring"] * len(seeds),
        )

    return row_gaps(Unit(pipe, batch), range(len(_ROW_TABLES)), _ROW_TABLES)


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


def rank_disagreements(rank: int, world: int, folder: str, steps: int) -> None:
    """Decide random steps on one of several ranks; writes how often the ranks disagreed.

    Args:
        rank: Of this process.
        world: Number of processes.
        folder: Where they meet, and where rank 0 writes `disagreements`.
        steps: How many.
    """
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    try:
        ranks, rng = Ranks(), np.random.default_rng(rank)  # ranks wish for different things
        history = SiteHistory(TieredCache(), 0, 0, 0, 3)
        disagreed = 0
        for step in range(steps):
            wish = rng.integers(0, 4, (3, 1), dtype=np.int8)
            agreed = ranks.share(Decision(wish, np.zeros_like(wish)))
            modes = ranks.least(history.effective(agreed.modes[:, 0]))
            computing = np.flatnonzero(modes == 0)
            if len(computing) and rng.random() < 0.9:  # one rank has no room where another has
                entry = torch.zeros(len(computing), 4)
                history.record(entry, computing, step, 1.0 - step / steps, 0)  # type: ignore[arg-type]
            seen = [torch.empty(3, dtype=torch.int8) for _ in range(world)]
            distributed.all_gather(seen, torch.as_tensor(modes.copy()))
            disagreed += any(not torch.equal(seen[0], other) for other in seen)
        if rank == 0:
            with open(f"{folder}/disagreements", "w") as file:  # noqa: PTH123
                file.write(str(disagreed))
    finally:
        distributed.destroy_process_group()
