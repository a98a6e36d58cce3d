"""Solvers whose every update weighs all outputs so far, learned from full compute: L2P."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.contender import Setup, denoiser_name
from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import ComputePath
from ditcache_rl.search.calibrate import Products, measure_products
from ditcache_rl.types import Floats

#: Steps at the beginning that are all computed; the best number on train prompts is taken.
_FIRST = (1, 2, 3)
#: Share of an output's own square that is added where outputs can hardly be told apart.
_RIDGE = 1e-6


class LinearSolver(NamedTuple):
    """What is added to the latents at every computed step."""

    path: ComputePath
    """The K steps that compute."""
    updates: Floats
    """(K, K) what each update weighs the outputs with, oldest first; zero for those to come."""

    @contextmanager
    def applied(self, pipe: Any) -> Iterator[None]:
        """Put it in the place of a pipeline's scheduler, for as long as it is entered."""
        plain = pipe.scheduler
        pipe.scheduler = _running(self, type(plain)).from_config(plain.config)
        try:
            yield
        finally:
            pipe.scheduler = plain


def l2p_solvers(
    pipe: Any, steps: int, call: dict[str, Any], cases: Sequence[Case], counts: Sequence[int]
) -> dict[str, Any]:
    """Learn solvers of so many computed steps, as a file holds them."""
    board = Board(pipe, steps, sites=1, call=call, blocks=denoiser_name(pipe))
    products = measure_products(board, cases)
    found = {}
    for count in counts:
        tried = [l2p(products, path) for path in paths(steps, count)]
        best = min(tried, key=lambda solver: lacking(products, solver))
        found[str(count)] = {"path": list(best.path), "updates": best.updates.tolist()}
    return found


def paths(steps: int, count: int) -> list[ComputePath]:
    """List evenly spaced steps after one, two or three at the beginning."""
    found = []
    for first in _FIRST:
        if first < count:
            later = np.linspace(first - 1, steps, count - first + 2)[1:-1].round().astype(int)
            found.append((*range(first), *map(int, later)))
    return [path for path in dict.fromkeys(found) if len(set(path)) == count]


def l2p(products: Products, path: ComputePath) -> LinearSolver:
    """Learn what every output is of all computed ones before it, on trajectories of full compute.

    Source: L2P (arXiv 2604.26365), whose predictor is linear in all outputs so far and is trained
    open-loop; here its least squares are solved, and steps between are summed up.
    """
    gram, moves = products.gram.sum(axis=0), np.diff(products.sigmas)
    updates = np.zeros((len(path), len(path)))
    place = -1
    for step, move in enumerate(moves):
        place += step in path
        known = list(path[: place + 1])
        if step in path:
            updates[place, place] += move
            continue
        inner = gram[np.ix_(known, known)]
        damped = inner + _RIDGE * np.diag(np.diag(inner))
        updates[place, : place + 1] += move * np.linalg.solve(damped, gram[known, step])
    return LinearSolver(path, updates)


def lacking(products: Products, solver: LinearSolver) -> float:
    """Return the squared error that updates leave on full compute, all gaps together."""
    gram, moves = products.gram.sum(axis=0), np.diff(products.sigmas)
    total, ends = 0.0, [*solver.path[1:], len(moves)]
    for place, (start, end) in enumerate(zip(solver.path, ends, strict=True)):
        along = np.zeros(len(moves))
        along[start:end] = moves[start:end]
        along[list(solver.path)] -= solver.updates[place]
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


def _running(solver: LinearSolver, plain: Any) -> Any:
    """Derive a sampler of flow matching that goes from computed step to computed step."""
    path = list(solver.path)

    class Solver(plain):  # type: ignore[misc]
        """Adds up all outputs so far."""

        @wraps(plain.set_timesteps)  # pipelines ask what it takes
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            self.timesteps: Tensor = self.timesteps[path]
            own: Any = self
            own.sigmas = torch.cat([own.sigmas[path], own.sigmas[-1:]])
            self._outputs: list[Tensor] = []

        def step(
            self,
            model_output: Tensor,
            timestep: Any,
            sample: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> tuple[Tensor]:
            self._outputs.append(model_output)
            moved = sample.float()
            for factor, output in zip(
                solver.updates[len(self._outputs) - 1].tolist(), self._outputs, strict=False
            ):
                moved = moved + factor * output.float()
            self._step_index = len(self._outputs)
            return (moved.to(model_output.dtype),)

    return Solver
