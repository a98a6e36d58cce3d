"""Requests that come in bursts, each with a deadline: in time, and how good?"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ditcache_rl.metrics import unrounded_psnr_db
from ditcache_rl.queueing import Traffic
from ditcache_rl.serve.adaptive import images_of
from ditcache_rl.serve.server import Engine, ImageTicket, Refused

#: Mean arrivals over what a server without a policy can draw.
LOAD = 1.3
#: Images of a crowd that wants every step computed, which tells how many that is.
_CROWD = 24


class Burst(NamedTuple):
    """What became of the requests of a trace."""

    kept_share: float
    """Of all requests, those whose image was there in time."""
    psnr_db: float
    """Mean of the images that were."""
    psnr_all_db: float
    """Mean of all requests, 0 where there was no image in time."""
    refused: int
    compute_share: float


def traffic_of(requests: int, image_s: float, images_per_s: float, *, seed: int) -> Traffic:
    """Draw arrivals at 1.3 times what full compute can serve, and deadlines.

    Args:
        requests: How many.
        image_s: What an image takes alone, without a server.
        images_per_s: What a server without a policy draws.
        seed: Draws everything.
    """
    rng = np.random.default_rng(seed)
    return Traffic.drawn(rng, 1, requests, rate=LOAD * images_per_s, image_s=image_s)


def full_rate(engine: Engine, prompts: Sequence[str]) -> float:
    """Measure how many images an engine draws in a second with every step computed."""
    whole = engine.painter.policy.tables[engine.painter.policy.steps[0]].site_steps
    began = time.perf_counter()
    tickets = [_ticket(engine, prompts, place, whole, whole, np.inf) for place in range(_CROWD)]
    engine.submit(tickets)
    for ticket in tickets:
        ticket.answer.result()
    return _CROWD / (time.perf_counter() - began)


def _ticket(
    engine: Engine,
    prompts: Sequence[str],
    seed: int,
    least: int,
    most: int,
    deadline: float,
    *,
    asks_time: bool = False,
) -> ImageTicket:
    return ImageTicket(
        prompt=prompts[seed % len(prompts)],
        seed=seed,
        steps=engine.painter.policy.steps[0],
        size=None,
        least=least,
        most=most,
        floor=None,
        deadline=deadline,
        asks_time=asks_time,
    )


def play(
    engine: Engine,
    traffic: Traffic,
    prompts: Sequence[str],
    references: Mapping[int, Tensor],
    *,
    computes: int | None = None,
) -> Burst:
    """Send a trace to an engine, and judge what comes of it.

    Args:
        engine: Draws; it is ready.
        traffic: One trace.
        prompts: Taken by turns.
        references: By seed: images of the first places of the trace, which are asked for by turns.
        computes: Of every request, as a fixed schedule; None to leave that to the engine.
    """
    policy = engine.painter.policy
    table = policy.tables[policy.steps[0]]
    least, most = (table.least, table.site_steps) if computes is None else (computes, computes)
    tickets: list[ImageTicket | None] = []
    refused, began = 0, time.perf_counter()
    for place, (comes_s, deadline_s) in enumerate(zip(*(part[0] for part in traffic), strict=True)):
        time.sleep(max(0.0, began + comes_s - time.perf_counter()))
        ticket = _ticket(
            engine,
            prompts,
            place % len(references),
            least,
            most,
            began + deadline_s,
            asks_time=computes is None,
        )
        try:
            engine.submit([ticket])
        except Refused:
            refused += 1
            tickets.append(None)
        else:
            tickets.append(ticket)
    wait([ticket.answer for ticket in tickets if ticket is not None])
    return _judged(tickets, references, refused)


def most_in_time(
    play_at: Callable[[int], Burst], computes: Sequence[int], kept_share: float
) -> dict[int, Burst]:
    """Play fixed schedules, up to the one of the most computes that keeps as many deadlines.

    What computes more keeps no more, so that half of those that are left are ruled out each time.

    Args:
        play_at: Plays the schedule of so many computes.
        computes: Of all schedules, ascending.
        kept_share: Deadlines that must be kept.

    Returns:
        What was played, by computes.
    """
    played = dict[int, Burst]()
    low, high = 0, len(computes)
    while low < high:
        middle = (low + high) // 2
        one = played[computes[middle]] = play_at(computes[middle])
        if one.kept_share >= kept_share:
            low = middle + 1
        else:
            high = middle
    return played


def _judged(
    tickets: Sequence[ImageTicket | None], references: Mapping[int, Tensor], refused: int
) -> Burst:
    found, shares = [], []
    for ticket in tickets:
        if ticket is None or ticket.answer.cancelled() or ticket.answer.exception() is not None:
            continue
        drawn = ticket.answer.result()
        if ticket.came + drawn.queue_s + drawn.seconds > ticket.deadline:
            continue
        found.append(psnr_of(Image.open(io.BytesIO(drawn.png)), references[ticket.seed]))
        shares.append(drawn.compute_share)
    return Burst(
        kept_share=len(found) / len(tickets),
        psnr_db=float(np.mean(found)) if found else 0.0,
        psnr_all_db=float(np.sum(found)) / len(tickets),
        refused=refused,
        compute_share=float(np.mean(shares)) if shares else 0.0,
    )


def psnr_of(image: Image.Image, reference: Tensor) -> float:
    """Compare an image with its reference, (3, H, W), in dB before it was rounded.

    So policies count, and simulations with them.
    """
    ours = images_of(([image],))
    assert ours is not None
    (decibels,) = unrounded_psnr_db(ours, reference[None])
    return float(decibels)


def drawn_alone(
    draw: Callable[..., Tensor], prompts: Sequence[str], count: int
) -> dict[int, Tensor]:
    """Draw the references of a trace, by seed: (3, H, W) in [0, 1]."""
    with torch.no_grad():
        return {seed: draw(prompts[seed % len(prompts)], seed) for seed in range(count)}
