"""Fit rules to a world: the best there is among those that keep a promised share of deadlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ditcache_rl.schedules.placement import Placement
from ditcache_rl.types import Floats
from ditcache_rl.world.agent import Agent
from ditcache_rl.world.rules import ByDeadline, Replanning
from ditcache_rl.world.simulator import Requests, played
from ditcache_rl.world.world import World

#: Draws the same batch of images again, for every rule that is tried on it.
Draw = Callable[[], Requests]

#: Classes of deadlines and of speeds at the start, each as many images.
_DEADLINES, _SPEEDS = 12, 8
#: Images that static schedules are chosen on, and that rules and agents are tuned on.
_CHOOSE, _TUNE = 12_288, 3072
#: Settings of the rule that are tried.
_TRIES = 12
#: The promise is met with so much to spare where contenders are tuned: of 3,000 images 95 % are
#: known to 0.4 %.
SPARE = 0.003
#: Halvings of an interval of margins or prices: to a part in a thousand.
_HALVINGS = 10


def best_by_deadline(
    draw: Draw, placement: Placement, promised: float, *, speeds: int = _SPEEDS
) -> ByDeadline:
    """Choose a static schedule for every class of deadline and of speed at the start.

    Lateness has a price, the least at which the promised share comes in time.

    Args:
        draw: Images to choose on.
        placement: Makes the schedules.
        promised: Share of images in time.
        speeds: Classes of speed at the start; 1 chooses by the deadline alone.
    """
    requests = draw()
    moment, steps = requests.moment(), placement.steps
    start = moment.gauge[:, 7]
    deadlines = _edges(requests.given, _DEADLINES)
    slow = _edges(start, speeds)
    at = np.searchsorted(deadlines, requests.given) * speeds + np.searchsorted(slow, start)
    paths = [placement.path(count) for count in range(1, steps + 1)]
    worth = requests.quality.psnr_db(np.array([_cost(placement, path) for path in paths]))
    fits = requests.affordable()[:, None] >= np.array([len(path) for path in paths])
    classes = (len(deadlines) + 1) * speeds
    in_time = np.zeros((classes, steps))
    np.add.at(in_time, at, fits)
    low, high = 0.0, 1e4
    for _ in range(2 * _HALVINGS):
        price = (low + high) / 2
        chosen = (in_time * (worth + price)).argmax(axis=1)
        kept = in_time[np.arange(classes), chosen].sum() / requests.rows
        low, high = (low, price) if kept >= promised else (price, high)
    chosen = (in_time * (worth + high)).argmax(axis=1) + 1
    return ByDeadline.over(placement, chosen.reshape(-1, speeds), deadlines, slow)


def with_margin(draw: Draw, rule: Replanning, promised: float) -> tuple[Replanning, float]:
    """Find the least margin at which a rule keeps its promise, and the PSNR in dB that it has then.

    The PSNR is the mean over images in time.
    """
    low, high = -0.5, 0.9
    psnr_db = -np.inf
    for _ in range(_HALVINGS):
        margin = (low + high) / 2
        found, in_time = played(draw(), replace(rule, margin=margin))
        if in_time.mean() >= promised:
            high, psnr_db = margin, float(found[in_time].mean())
        else:
            low = margin
    return replace(rule, margin=high), psnr_db


def tuned(
    draw: Draw, rule: Replanning, promised: float, *, tries: int, rng: np.random.Generator
) -> Replanning:
    """Try settings of a rule at random, each with its own least margin; the best one is returned.

    Args:
        draw: Images to choose on.
        rule: The first that is tried.
        promised: Share of images in time.
        tries: Settings.
        rng: Draws them.
    """
    best, most = with_margin(draw, rule, promised)
    for _ in range(tries - 1):
        tried = replace(
            rule,
            rate=float(rng.choice([0.0, 0.0, 0.5, 1.0, 1.5])),
            jump=float(rng.choice([0.0, 0.15, 0.3, 0.5])),
            reverts=float(rng.choice([np.inf, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0])),
        )
        fitted, psnr_db = with_margin(draw, tried, promised)
        if psnr_db > most:
            best, most = fitted, psnr_db
    return best


def tune_opponents(
    world: World, loads: Sequence[str], promised: float, *, seed: int
) -> tuple[ByDeadline, ByDeadline, Replanning]:
    """Return the best static schedules by deadline, by speed at the start too, and the rule."""
    placement = Placement(world.quality.costs)
    many = world.fixed(loads, _CHOOSE, seed)
    static = best_by_deadline(many, placement, promised + SPARE, speeds=1)
    start = best_by_deadline(many, placement, promised + SPARE)
    rule = tuned(
        world.fixed(loads, _TUNE, seed + 1),
        Replanning(placement, world.prices),
        promised + SPARE,
        tries=_TRIES,
        rng=np.random.default_rng(seed),
    )
    return static, start, rule


def cautious(
    world: World, loads: Sequence[str], agent: Agent, promised: float, *, seed: int
) -> Agent:
    """Make an agent as cautious as the load needs under which it is late most."""
    batches = [world.fixed([load], _TUNE, seed + place) for place, load in enumerate(loads)]
    low, high = -2.0, 4.0
    for _ in range(8):
        caution = (low + high) / 2
        tried = Agent(agent.network, agent.prior, caution=caution)
        kept = min(played(draw(), tried)[1].mean() for draw in batches)
        low, high = (low, caution) if kept >= promised + SPARE / 3 else (caution, high)
    return Agent(agent.network, agent.prior, caution=high)


def _edges(values: Floats, classes: int) -> Floats:
    return np.asarray(np.quantile(values, np.arange(1, classes) / classes))


def _cost(placement: Placement, path: tuple[int, ...]) -> float:
    ends = (path[0], *path, placement.steps)
    return float(
        sum(placement.costs[i, j, k] for i, j, k in zip(ends, ends[1:], ends[2:], strict=False))
    )
