"""Solvers whose every update weighs all outputs so far, learned from full compute: L2P."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.peers.contender import Setup, denoiser_name
from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import ComputePath
from ditcache_rl.search.calibrate import Products, measure_products
from ditcache_rl.search.free import FreeSolver

#: Steps at the beginning that are all computed; the best number on train prompts is taken.
_FIRST = (1, 2, 3)
#: Share of an output's own square that is added where outputs can hardly be told apart.
_RIDGE = 1e-6


def l2p_solvers(
    pipe: Any, steps: int, call: dict[str, Any], cases: Sequence[Case], counts: Sequence[int]
) -> dict[str, Any]:
    """Learn solvers of so many computed steps, as a file holds them."""
    board = Board(pipe, steps, sites=1, call=call, blocks=denoiser_name(pipe))
    products = measure_products(board, cases)
    found = {}
    for count in counts:
        tried = {path: l2p(products, path) for path in paths(steps, count)}
        best = min(tried, key=lambda path: lacking(products, path, tried[path]))
        found[str(count)] = tried[best].write()
    return found


def paths(steps: int, count: int) -> list[ComputePath]:
    """List evenly spaced steps after one, two or three at the beginning."""
    found = []
    for first in _FIRST:
        if first < count:
            later = np.linspace(first - 1, steps, count - first + 2)[1:-1].round().astype(int)
            found.append((*range(first), *map(int, later)))
    return [path for path in dict.fromkeys(found) if len(set(path)) == count]


def l2p(products: Products, path: ComputePath) -> FreeSolver:
    """Learn what every output is of all computed ones before it, on trajectories of full compute.

    Source: L2P (arXiv 2604.26365), whose predictor is linear in all outputs so far and is trained
    open-loop; here its least squares are solved, and steps between are summed up.
    """
    gram, moves = products.gram.sum(axis=0), np.diff(products.sigmas)
    updates = np.zeros((len(path), len(path)))
    place = -1
    for step, move in enumerate(moves):
        place += step in path
        known = list(path[place::-1])
        if step in path:
            updates[place, 0] += move
            continue
        inner = gram[np.ix_(known, known)]
        damped = inner + _RIDGE * np.diag(np.diag(inner))
        updates[place, : place + 1] += move * np.linalg.solve(damped, gram[known, step])
    return FreeSolver(products.sigmas[list(path)], np.ones(len(path)), updates)


def lacking(products: Products, path: ComputePath, solver: FreeSolver) -> float:
    """Return the squared error that updates leave on full compute, all gaps together."""
    gram, moves = products.gram.sum(axis=0), np.diff(products.sigmas)
    total, ends = 0.0, [*path[1:], len(moves)]
    for place, (start, end) in enumerate(zip(path, ends, strict=True)):
        along = np.zeros(len(moves))
        along[start:end] = moves[start:end]
        along[list(path[place::-1])] -= solver.updates[place, : place + 1]
        total += float(along @ gram @ along)
    return total


def learned_solver(name: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """Run a learned solver, chosen by its computed steps."""

    def make(setup: Setup, value: int) -> dict[str, Any]:
        solver = setup.solvers.get(name, {}).get(value)
        if solver is None:
            raise ConfigError(f"expected a solver of {value} computed steps for {name}")

        return {"applied": solver.applied}

    return make
