"""Guess from past requests whether an entry is read at its next visit, and replay traces on it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from benchmarks.traces.loops import SITES, STEPS, per_block_schedule
from ditcache_rl.cache import Habit
from ditcache_rl.types import Mode, Modes

#: Requests that run at the same time and share the tier.
_TOGETHER = 2
#: Step size of the logistic regression.
_RATE = 0.05


class SiteVisit(NamedTuple):
    """A visit of a site by a request."""

    request: int
    kind: int
    step: int
    site: int
    read: bool


def kind_schedule(kind: int, seed: int) -> Modes:
    """Draw the schedule of a request: (STEPS, SITES).

    Kind 0 refreshes site i every 1 + i mod 8 steps. The others refresh a site when its change has
    passed a threshold: rates of the sites belong to the kind, noise to the request.
    """
    if kind == 0:
        return per_block_schedule()
    rates = np.random.default_rng(kind).uniform(0.1, 0.9, SITES) / kind
    rng = np.random.default_rng(1000 + seed)
    modes = np.full((STEPS, SITES), Mode.REUSE, dtype=np.int8)
    drift = np.full(SITES, np.inf)
    for step in range(STEPS):
        drift += rates * (0.5 + 2 * (step / (STEPS - 1) - 0.5) ** 2) * rng.uniform(0.5, 1.5, SITES)
        modes[step, drift >= 1] = Mode.COMPUTE
        drift[drift >= 1] = 0
    return modes


def mixed_trace(requests: int, seed: int) -> list[SiteVisit]:
    """Interleave requests of three kinds, step by step."""
    kinds = np.random.default_rng(seed).integers(3, size=requests)
    visits = []
    for first in range(0, requests, _TOGETHER):
        group = range(first, min(first + _TOGETHER, requests))
        tables = {r: kind_schedule(int(kinds[r]), seed * requests + r) for r in group}
        visits += [
            SiteVisit(r, int(kinds[r]), step, site, bool(tables[r][step, site] != Mode.COMPUTE))
            for step in range(STEPS)
            for r in group
            for site in range(SITES)
        ]
    return visits


def habit_chances(visits: list[SiteVisit]) -> list[float]:
    """Guess as the store does: from this request alone."""
    habits: dict[tuple[int, int], Habit] = defaultdict(Habit)
    found = []
    for visit in visits:
        habit = habits[visit.request, visit.site]
        habit.visit(visit.read)
        found.append(habit.chance)
    return found


def counted_chances(visits: list[SiteVisit], own: list[float]) -> list[float]:
    """Count reads by kind, site and age over all requests; where little is known, `own` counts."""
    counts: dict[tuple[int, int, int], tuple[int, int]] = {}
    ages: dict[tuple[int, int], int] = {}
    found = []
    for visit, guess in zip(visits, own, strict=True):
        entry = visit.request, visit.site
        if entry in ages:
            cell = visit.kind, visit.site, ages[entry]
            reads, seen = counts.get(cell, (0, 0))
            counts[cell] = reads + visit.read, seen + 1
        ages[entry] = ages.get(entry, 0) + 1 if visit.read else 0
        reads, seen = counts.get((visit.kind, visit.site, ages[entry]), (0, 0))
        found.append((reads + guess) / (seen + 1))
    return found


def regressed_chances(visits: list[SiteVisit], own: list[float]) -> list[float]:
    """Learn a logistic regression, one gradient step per visit."""
    weights = np.zeros((3, SITES, 5))
    weights[..., 1] = 1.0  # begins with `own`
    last: dict[tuple[int, int], np.ndarray] = {}
    ages: dict[tuple[int, int], int] = {}
    found = []
    for visit, guess in zip(visits, own, strict=True):
        entry, table = (visit.request, visit.site), weights[visit.kind, visit.site]
        if entry in last:
            error = visit.read - _sigmoid(float(table @ last[entry]))
            table += _RATE * error * last[entry]
        age = ages[entry] = ages.get(entry, 0) + 1 if visit.read else 0
        clipped = min(max(guess, 0.01), 0.99)
        middle = abs(visit.step / (STEPS - 1) - 0.5)
        last[entry] = np.array([1, np.log(clipped / (1 - clipped)), age / 8, age == 0, middle])
        found.append(_sigmoid(float(table @ last[entry])))
    return found


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(value, -30, 30))))


def hit_rate(
    visits: list[SiteVisit], chances: list[float], ahead: list[int], share: float
) -> float:
    """Replay visits on one tier whose entries are worth their chance per distance.

    What a request leaves behind is freed when it ends, as the store does.

    Args:
        visits: In order.
        chances: After each visit, of being read at the next one.
        ahead: Position of that next one; -1 frees the entry.
        share: Of the entries of the running requests that fit.
    """
    room = round(share * SITES * _TOGETHER)
    held: dict[tuple[int, int], tuple[float, int]] = {}
    reads = hits = 0
    for now, (visit, chance, coming) in enumerate(zip(visits, chances, ahead, strict=True)):
        entry = visit.request, visit.site
        reads += visit.read
        hits += visit.read and entry in held
        held.pop(entry, None)
        if coming < 0:
            continue
        if len(held) == room:
            worth = {name: c / (then - now) for name, (c, then) in held.items()}
            least = min(worth, key=lambda name: worth[name])
            if worth[least] >= chance / (coming - now):
                continue
            del held[least]
        held[entry] = chance, coming
    return hits / reads


def hit_rates(requests: int, seed: int, share: float) -> dict[str, float]:
    """Replay a mixed trace under every predictor: name -> share of the reads that hit."""
    visits = mixed_trace(requests, seed)
    next_visit, next_read = _ahead(visits)
    own, sure = habit_chances(visits), [1.0] * len(visits)
    return {
        "distance": hit_rate(visits, sure, next_visit, share),
        "farthest": hit_rate(visits, own, next_visit, share),
        "counted": hit_rate(visits, counted_chances(visits, own), next_visit, share),
        "regressed": hit_rate(visits, regressed_chances(visits, own), next_visit, share),
        "belady": hit_rate(visits, sure, next_read, share),
    }


def _ahead(visits: list[SiteVisit]) -> tuple[list[int], list[int]]:
    """Return where each entry is visited next, and where it is read before it is written."""
    visited, read = [-1] * len(visits), [-1] * len(visits)
    coming: dict[tuple[int, int], int] = {}
    for now in range(len(visits) - 1, -1, -1):
        entry = visits[now].request, visits[now].site
        visited[now] = coming.get(entry, -1)
        read[now] = visited[now] if visited[now] >= 0 and visits[visited[now]].read else -1
        coming[entry] = now
    return visited, read
