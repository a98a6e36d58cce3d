"""What a schedule should draw, worked out by torch's own hooks and a polynomial fit.

Every block computes every row, and what a site returns is overruled afterwards where the schedule
says so. Nothing here is shared with `ditcache_rl.instrument`: no gathering, no weights, no cache;
branches are told apart by the order of the calls.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.types import Mode, Modes

#: First blocks of the sites, and the end, for the five blocks of `tiny_pipe`.
SITE_EDGES = {1: [0, 5], 2: [0, 2, 5], 3: [0, 2, 3, 5], 5: [0, 1, 2, 3, 4, 5]}

Streams = tuple[Tensor, ...]
Past = list[tuple[float, Streams]]


@contextmanager
def overruled(pipe: Any, modes: Modes, *, branches: int = 1) -> Iterator[None]:
    """Let a pipeline follow a (steps, rows, sites) table, whose first step computes."""
    transformer = pipe.transformer
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    edges = SITE_EDGES[modes.shape[2]]
    past: dict[tuple[int, int, int], Past] = defaultdict(list)
    entrance: dict[int, Streams] = {}
    calls = [-1]

    def count(*_: Any) -> None:
        calls[0] += 1

    def enter(site: int) -> Any:
        def hook(block: Any, args: Any, kwargs: dict[str, Tensor]) -> None:
            entrance[site] = kwargs["encoder_hidden_states"], kwargs["hidden_states"]

        return hook

    def leave(site: int) -> Any:
        def hook(block: Any, args: Any, kwargs: Any, output: Streams) -> Streams:
            step, branch = divmod(calls[0], branches)
            sigma = float(pipe.scheduler.sigmas[step])
            text, image = (stream.clone() for stream in output)
            for row in range(len(image)):
                known = past[branch, site, row]
                start = tuple(stream[row] for stream in entrance[site])
                if modes[step, row, site] == Mode.COMPUTE:
                    known.append((sigma, (text[row] - start[0], image[row] - start[1])))
                else:
                    guess = extrapolated(known, sigma, int(modes[step, row, site]) - 1)
                    text[row], image[row] = start[0] + guess[0], start[1] + guess[1]
            return text, image

        return hook

    handles = [transformer.register_forward_pre_hook(count)]
    for site, (first, end) in enumerate(pairwise(edges)):
        handles += [
            blocks[first].register_forward_pre_hook(enter(site), with_kwargs=True),
            blocks[end - 1].register_forward_hook(leave(site), with_kwargs=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def overruled_output(pipe: Any, modes: Modes, *, branches: int = 1) -> Iterator[None]:
    """Let what a transformer returns follow a (steps, rows, 1) table; its first step computes."""
    past: dict[tuple[int, int], Past] = defaultdict(list)
    calls = itertools.count()

    def hook(_: Any, args: Any, output: tuple[Tensor]) -> tuple[Tensor]:
        step, branch = divmod(next(calls), branches)
        sigma, changed = float(pipe.scheduler.sigmas[step]), output[0].clone()
        for row in range(len(changed)):
            known = past[branch, row]
            if modes[step, row, 0] == Mode.COMPUTE:
                known.append((sigma, (output[0][row],)))
            else:
                (changed[row],) = extrapolated(known, sigma, int(modes[step, row, 0]) - 1)
        return (changed,)

    handle = pipe.transformer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def extrapolated(past: Past, sigma: float, order: int) -> Streams:
    """Solve for the polynomial through the newest points; fewer points lower its order."""
    points = past[-1 - order :]
    nodes = np.array([node for node, _ in points])
    at = np.vander([sigma], len(points)) @ np.linalg.inv(np.vander(nodes, len(points)))
    return tuple(
        torch.from_numpy(np.tensordot(at[0], np.stack([s.double() for s in stream]), 1)).float()
        for stream in zip(*(streams for _, streams in points), strict=True)
    )


def effective(modes: Modes) -> Modes:
    """Lower the orders of a (steps, rows, sites) table to what has been computed before."""
    lowered = modes.copy()
    computed = np.zeros(modes.shape[1:], dtype=np.int64)
    for step in range(len(modes)):
        lowered[step] = np.minimum(modes[step], computed)
        computed += lowered[step] == Mode.COMPUTE
    return lowered
