"""Fit a matrix for every output of every update, one step after the other.

Each step is fitted where the steps before it have led, to where full compute is then: least
squares, without descent, at the price of one run of as many steps as are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ditcache_rl.schedules import ComputePath
from ditcache_rl.schedules.collapse import Collapsed
from ditcache_rl.schedules.maps import PatchMaps, parts_of, patches, side_of
from ditcache_rl.search.equations import solve
from ditcache_rl.search.free_loop import FreeLoop, FreeRun
from ditcache_rl.search.paths import cheapest_path
from ditcache_rl.types import HISTORY, Floats

#: Share of its own curvature that holds a number to what one coefficient for all channels would be:
#: on 64 prompts of the harder embedded pipeline a tenth and a tenth of that were within 0.2 dB.
_RIDGE = 1e-2
#: The same for these coefficients, of outputs that can hardly be told apart.
_TINY_RIDGE = 1e-7
#: Share of its squares that a case lacks at least: it is told as a difference of sums.
_LEAST = 1e-10


def fit_maps(
    loops: Sequence[FreeLoop], collapsed: Collapsed, *, guidance: Floats | None
) -> Collapsed:
    """Fit matrices for the updates of a collapsed schedule.

    Args:
        loops: Cases to fit to.
        collapsed: Which steps compute.
        guidance: (B,) what it multiplies branches with, to give each a matrix of its own; None for
            outputs as they are guided.
    """
    maps = PatchMaps(side_of(loops[0].target), (), guidance)
    runs: Sequence[FreeRun | None] = [None] * len(loops)
    for place, goal in enumerate([*collapsed.path[1:], len(collapsed.sigmas) - 1]):
        head = collapsed._replace(path=collapsed.path[: place + 1], maps=None)
        if place:  # what its last update does is of no account, but there must be one
            head = head._replace(maps=maps._replace(matrices=(*maps.matrices, maps.matrices[-1])))
        drawn = [
            loop.run(head, known=run, first=place) for loop, run in zip(loops, runs, strict=True)
        ]
        sides = [_sides(loop, run, goal, maps) for loop, run in zip(loops, drawn, strict=True)]
        matrix = _matrix(*(np.concatenate(parts) for parts in zip(*sides, strict=True)))
        maps, runs = maps._replace(matrices=(*maps.matrices, matrix)), drawn
    return collapsed._replace(maps=maps)


def steps_for(loops: Sequence[FreeLoop], count: int) -> ComputePath:
    """Choose the steps to compute whose updates lack least on trajectories of full compute.

    An update is what the last two outputs say best of a gap, one coefficient each: what a matrix,
    or branches, gain beyond is much the same in all gaps.

    Args:
        loops: Cases of full compute.
        count: Steps to compute, at least 2.
    """
    products = np.sum([_products(loop.full) for loop in loops], axis=0)
    steps = len(loops[0].sigmas) - 1
    ends = np.arange(steps, len(products))
    costs = np.full((steps, steps, steps + 1), np.inf)
    for newest in range(steps):
        start, later = ends[newest], ends[newest + 1 :]
        squares = products[later, later] - 2 * products[later, start] + products[start, start]
        for older in range(newest + 1):
            known = np.array(sorted({older, newest}))
            moment = products[np.ix_(known, later)] - products[known, start][:, None]
            found = solve(products[np.ix_(known, known)], moment, _TINY_RIDGE)
            costs[older, newest, newest + 1 :] = np.maximum(squares - (moment * found).sum(0), 0)
    return cheapest_path(costs, count)


def _products(full: FreeRun) -> Floats:
    """Compare outputs of all steps, and latents, with each other."""
    total = np.zeros((len(full.outputs) + len(full.latents),) * 2)
    for case in range(len(full.latents[0])):  # of large images all together would not fit
        several = (*full.outputs, *full.latents)
        rows = torch.stack([one[case].double().flatten() for one in several])
        total += (rows @ rows.T).numpy()
    return total


def _sides(
    loop: FreeLoop, run: FreeRun, goal: int, maps: PatchMaps
) -> tuple[Floats, Floats, Floats]:
    """Return both sides of the normal equations of a step, and squares of what is wanted, by case.

    Args:
        loop: Whose full compute is the goal.
        run: Up to the outputs of the step.
        goal: Step of full compute at which the next one computes.
        maps: How parts are made rows.

    Returns:
        (cases, F, F), (cases, F, D) and (cases,).
    """
    by_branch, place = maps.guidance is not None, len(run.outputs) - 1
    used = run.used(by_branch)[: -HISTORY - 1 : -1]
    parts = parts_of(run.latents[place], used, by_branch=by_branch)
    rows, wanted = (
        torch.cat([patches(one.cpu().double(), maps.side).flatten(1, -2) for one in several], dim=2)
        for several in (parts, [loop.full.latents[goal]])
    )
    sides = rows.mT @ rows, rows.mT @ wanted, wanted.square().sum(dim=(1, 2))
    grams, moments, squares = (side.numpy() for side in sides)
    return grams, moments, squares


def _matrix(grams: Floats, moments: Floats, squares: Floats) -> Floats:
    """Fit a matrix so that every case counts by its relative error, as decibels are averaged.

    Of squared errors alone the hard cases would have nearly all: so all are fitted alike first, and
    then again by what that leaves of each.
    """
    alike = _solved(grams.sum(axis=0), moments.sum(axis=0))
    told = ((grams @ alike - 2 * moments) * alike).sum(axis=(1, 2))
    share = 1 / np.maximum(squares + told, _LEAST * squares)
    return _solved(np.tensordot(share, grams, axes=1), np.tensordot(share, moments, axes=1))


def _solved(gram: Floats, moment: Floats) -> Floats:
    """Solve the normal equations: one coefficient for all channels of an output, then what is left.

    Latents are kept as they are by the coefficients.
    """
    channels = moment.shape[1]
    parts = len(gram) // channels
    left = moment - gram[:, :channels]
    blocks = gram.reshape(parts, channels, parts, channels)
    inner = np.einsum("idjd->ij", blocks)[1:, 1:]
    coefficients = solve(
        inner, np.einsum("idd->i", left.reshape(parts, channels, channels))[1:], _TINY_RIDGE
    )
    plain = np.kron(np.append(1.0, coefficients)[:, None], np.eye(channels))
    return plain + np.asarray(solve(gram, moment - gram @ plain, _RIDGE))
