"""Fit rules to a world: the best there is among those that keep a promised share of deadlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules.placement import Placement
from ditcache_rl.types import Floats
from ditcache_rl.world.agent import Agent
from ditcache_rl.world.rules import ByDeadline, Foreseeing, Replanning
from ditcache_rl.world.simulator import Requests, played, psnr_of
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
#: Halvings of an interval of prices: to a hundredth of a decibel.
_HALVINGS = 20
#: Margins of rules that are tried, and how often the best one is looked around.
_MARGINS, _REFINED = np.array([-0.1, 0.0, 0.1, 0.2, 0.3, 0.45]), 3
#: Cautions of an agent that are tried, the least first.
_CAUTIONS = (0.0, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0)


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
    worth = psnr_of(np.array([_cost(placement, path) for path in paths]))
    fits = np.floor(requests.room())[:, None] >= np.array([len(path) for path in paths])
    classes = (len(deadlines) + 1) * speeds
    in_time = np.zeros((classes, steps))
    np.add.at(in_time, at, fits)
    low, high = 0.0, 1e4
    for _ in range(_HALVINGS):
        price = (low + high) / 2
        chosen = (in_time * (worth + price)).argmax(axis=1)
        kept = in_time[np.arange(classes), chosen].sum() / requests.rows
        low, high = (low, price) if kept >= promised else (price, high)
    chosen = (in_time * (worth + high)).argmax(axis=1) + 1
    return ByDeadline(placement, chosen.reshape(-1, speeds), deadlines, slow)


def score_db(psnr_db: Floats, in_time: NDArray[np.bool_]) -> Floats:
    """Return what images are worth: their PSNR in dB, nothing where they are late."""
    return np.where(in_time, psnr_db, 0.0)


#: Rules with a margin; for `Foreseeing` in computes.
Margined = TypeVar("Margined", Replanning, Foreseeing)


class Merit(NamedTuple):
    """What a setting is worth: a promise that is kept comes first, the score second."""

    kept_share: float
    """In time, up to what is promised."""
    score_db: float
    """Mean over the images."""


def with_margin(draw: Draw, rule: Margined, promised: float) -> tuple[Margined, Merit]:
    """Find the best margin of a rule, and its merit."""
    best, most = rule, Merit(-1.0, 0.0)
    margins, apart = _MARGINS, float(np.diff(_MARGINS).max())
    for _ in range(_REFINED):
        for margin in margins:
            tried = replace(rule, margin=float(margin))
            psnr_db, in_time = played(draw(), tried)
            score = float(score_db(psnr_db, in_time).mean())
            merit = Merit(min(float(in_time.mean()), promised), score)
            if merit > most:
                best, most = tried, merit
        apart /= 3
        margins = best.margin + np.array([-apart, apart])
    return best, most


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
        fitted, merit = with_margin(draw, tried, promised)
        if merit > most:
            best, most = fitted, merit
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
    """Make an agent as cautious as it must be to keep its promise under every load."""
    batches = [world.fixed([load], _TUNE, seed + place) for place, load in enumerate(loads)]
    tried = agent
    for caution in _CAUTIONS:
        tried = replace(agent, caution=caution)
        if all(played(draw(), tried)[1].mean() >= promised for draw in batches):
            break
    return tried


def _edges(values: Floats, classes: int) -> Floats:
    return np.asarray(np.quantile(values, np.arange(1, classes) / classes))


def _cost(placement: Placement, path: tuple[int, ...]) -> float:
    ends = (path[0], *path, placement.steps)
    return float(
        sum(placement.costs[i, j, k] for i, j, k in zip(ends, ends[1:], ends[2:], strict=False))
    )
