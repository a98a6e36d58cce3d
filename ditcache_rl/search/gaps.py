"""Fit coefficients for every path, and tell what every gap costs.

First on full compute, whose outputs tell what any gap would lack; then in closed loop, on paths as
a controller takes them, where each gap begins with what those before it lacked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import is_whole
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.schedules.gaps import FEATURES, LINE, WIDTH, GapModel, gap_basis, gap_features
from ditcache_rl.search.calibrate import Products, fitted_gap_costs
from ditcache_rl.search.gap_costs import shaken_paths
from ditcache_rl.types import HISTORY, Floats

#: Gaps of full compute that the network is fitted on first, and steps of Adam.
_OPEN, _OPEN_FITS = 20_000, 800
#: Steps of Adam after each round of rollouts, gaps of one of them, and the first learning rate.
_FITS, _BATCH, _RATE = 1500, 2048, 3e-3
#: Squared errors count by their logarithm, above this share of what the gap has to move.
_FLOOR = 1e-5


class Gaps(NamedTuple):
    """What rollouts tell of gaps; errors of any update follow from these products alone."""

    known: NDArray[np.int64]
    """(gaps, HISTORY) newest computed steps, newest first, -1 where there is none."""
    stops: NDArray[np.int64]
    """(gaps,)."""
    gram: Floats
    """(gaps, HISTORY, HISTORY) inner products of their outputs."""
    moment: Floats
    """(gaps, HISTORY) of the outputs with what the gap has to move."""
    square: Floats
    """(gaps,) of what the gap has to move."""

    def where(self, kept: NDArray[np.bool_]) -> Gaps:
        """Keep some of the gaps."""
        return Gaps(
            self.known[kept],
            self.stops[kept],
            self.gram[kept],
            self.moment[kept],
            self.square[kept],
        )

    @classmethod
    def joined(cls, parts: Sequence[Gaps]) -> Gaps:
        """Put gaps together."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class GapSearch:
    """Rollouts of cases on any paths, and what is fitted to them.

    Args:
        board: Pipeline and steps.
        cases: What is drawn; full compute of them is recorded first.
        rng: Draws paths and gaps.

    Raises:
        UnsupportedModelError: If the denoiser is not cached as a whole, or a step of the sampler is
            not the output times the change of the noise level.
    """

    def __init__(self, board: Board, cases: Sequence[Case], *, rng: np.random.Generator) -> None:
        if board.sites != 1 or not is_whole(board.blocks):
            raise UnsupportedModelError(
                "expected a denoiser that is cached as a whole to fit gaps, received "
                f"{board.sites} sites of its blocks"
            )
        self._board, self._rng = board, rng
        self._replays = [
            Replay(board, cases[start : start + board.rows])
            for start in range(0, len(cases), board.rows)
        ]
        self.sigmas = self._replays[0].sigmas
        self._moves = np.diff(self.sigmas)
        self._targets = [self._trajectory(replay) for replay in self._replays]
        self._network: nn.Sequential | None = None
        self._seen: list[Gaps] = []

    def products(self) -> Products:
        """Return inner products of the outputs of full compute, per number of a latent."""
        grams = []
        for targets in self._targets:
            moves = [after - before for before, after in itertools.pairwise(targets)]
            outputs = torch.stack([one.flatten(1).double().cpu() for one in moves], dim=1)
            outputs /= torch.as_tensor(self._moves)[None, :, None]
            grams.append((outputs @ outputs.mT / outputs.shape[2]).numpy())
        return Products(np.concatenate(grams), self.sigmas)

    def fit(
        self, *, rounds: int, paths: int, on_round: Callable[[float], None] | None = None
    ) -> GapModel:
        """Fit the coefficients of every gap.

        Args:
            rounds: Of rollouts and fits.
            paths: Rollouts of a round.
            on_round: Hears the share that is done.
        """
        products = self.products()
        self._learn([_open_gaps(products, self._rng)], _OPEN_FITS)
        costs = fitted_gap_costs(products)
        for index in range(rounds):
            drawn = shaken_paths(costs, paths, self._rng)
            self._seen += self.rollout(drawn, self.model)[0]
            self._learn(self._seen, _FITS)
            if on_round is not None:
                on_round((index + 1) / rounds)
        return self.model

    @property
    def model(self) -> GapModel:
        """What is fitted so far."""
        assert self._network is not None, "fit makes it"
        layers = [layer for layer in self._network if isinstance(layer, nn.Linear)]
        numbers = [
            (one.weight.detach().double().numpy().T.copy(), one.bias.detach().double().numpy())
            for one in layers
        ]
        return GapModel(tuple(numbers), self._mean, self._scale)

    @torch.no_grad()
    def rollout(
        self, paths: Sequence[ComputePath], model: GapModel
    ) -> tuple[list[Gaps], Floats, NDArray[np.int64]]:
        """Draw latents on paths, each on a case of its own as they come.

        Returns:
            The gaps; mean squared error of the final latents, and the number of the case, by path.
        """
        found, errors, numbers = [], np.empty(len(paths)), np.empty(len(paths), dtype=np.int64)
        shares = np.array_split(self._rng.permutation(len(paths)), len(self._replays))
        begin = 0
        for replay, targets, share in zip(self._replays, self._targets, shares, strict=True):
            cases = self._rng.integers(replay.rows, size=len(share))
            gaps, wrong = self._roll(replay, targets, cases, [paths[n] for n in share], model)
            found += gaps
            errors[share], numbers[share] = wrong, begin + cases
            begin += replay.rows
        return found, errors, numbers

    def _roll(
        self,
        replay: Replay,
        targets: Sequence[Tensor],
        cases: NDArray[np.int64],
        paths: Sequence[ComputePath],
        model: GapModel,
    ) -> tuple[list[Gaps], Floats]:
        steps, numbers = self._board.steps, np.arange(len(paths))
        stops = np.array([[*path, *[steps] * (steps + 1 - len(path))] for path in paths])
        computes = np.zeros((len(paths), steps), dtype=bool)
        for number, path in enumerate(paths):
            computes[number, list(path)] = True
        latents = targets[0][cases].clone()
        outputs = latents.new_zeros(len(paths), HISTORY, *latents.shape[1:])
        known = np.full((len(paths), HISTORY), -1, dtype=np.int64)
        found = []
        for step in range(steps):
            due = numbers[computes[:, step]]
            if not len(due):
                continue
            fresh = [
                replay.compute(step, latents[part], rows=cases[part])[0]
                for part in np.array_split(due, math.ceil(len(due) / self._board.rows))
            ]
            outputs[due, 1:] = outputs[due, :-1].clone()
            outputs[due, 0] = torch.cat(fresh)
            known[due, 1:] = known[due, :-1]
            known[due, 0] = step
            count = computes[due, : step + 1].sum(axis=1)
            ends = stops[due, count]
            wanted = torch.stack([targets[e][c] for e, c in zip(ends, cases[due], strict=True)])
            flat = outputs[due].flatten(2)
            gram, moment, square = _products_of(flat, (wanted - latents[due]).flatten(1))
            found.append(Gaps(known[due].copy(), ends, gram, moment, square))
            update = model.update(known[due], ends, self.sigmas)
            shares = torch.as_tensor(update, dtype=flat.dtype, device=flat.device)
            moved = torch.einsum("rh,rhf->rf", shares, flat)
            latents[due] += moved.view(latents[due].shape)
        wrong = (latents - targets[-1][cases]).flatten(1).double().square().mean(dim=1)
        return found, wrong.cpu().numpy()

    @torch.no_grad()
    def _trajectory(self, replay: Replay) -> list[Tensor]:
        """Return the latents of full compute before every step and after the last one."""
        latents = replay.recorded()
        last = len(latents) - 1
        output, _ = replay.compute(last, latents[last])
        end = latents[last] + self._moves[last] * output
        if not torch.allclose(replay.advance(last, output, latents[last]), end, atol=1e-4):
            raise UnsupportedModelError(
                "expected a sampler that adds the output times the change of the noise level to "
                f"fit gaps, received {type(self._board.pipe.scheduler).__name__}"
            )
        return [*latents, end]

    def _learn(self, parts: Sequence[Gaps], fits: int) -> None:
        """Move the network towards the least errors at the ends of gaps."""
        gaps = Gaps.joined(parts)
        gaps = gaps.where(gaps.stops - gaps.known[:, 0] > 1)
        seen = gap_features(gaps.known, gaps.stops, self.sigmas)
        basis = gap_basis(gaps.known, gaps.stops, self.sigmas)
        gram = torch.as_tensor(np.einsum("gij,gjk,glk->gil", basis, gaps.gram, basis))
        moment = torch.as_tensor(np.einsum("gij,gj->gi", basis, gaps.moment))
        square = torch.as_tensor(gaps.square)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self._rng.integers(2**31)))
            if self._network is None:
                self._mean, self._scale = seen.mean(axis=0), seen.std(axis=0) + 1e-6
                self._network = _network()
            inputs = torch.as_tensor((seen - self._mean) / self._scale, dtype=torch.float32)
            adam = torch.optim.Adam(self._network.parameters(), lr=_RATE)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, fits)
            for _ in range(fits):
                part = torch.randint(len(inputs), (min(len(inputs), _BATCH),))
                along = self._network(inputs[part]).double() + torch.as_tensor(LINE)
                error = (
                    square[part]
                    - 2 * (along * moment[part]).sum(dim=1)
                    + torch.einsum("gi,gij,gj->g", along, gram[part], along)
                )
                loss = torch.log(error.clamp_min(0) + _FLOOR * square[part] + 1e-12).mean()
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                falling.step()


def schedule_on(path: ComputePath, model: GapModel, sigmas: Floats) -> Schedule:
    """Return the schedule that computes a path, with the coefficients of a model."""
    steps = len(sigmas) - 1
    coefficients = np.full((steps, HISTORY), np.nan)
    known = np.full((1, HISTORY), -1, dtype=np.int64)
    for step in range(steps):
        if step in path:
            known[0, 1:], known[0, 0] = known[0, :-1], step
        else:
            coefficients[step] = model.coefficients(known, step, sigmas)[0]
    return Schedule.on_path(path, steps, coefficients)


def _network() -> nn.Sequential:
    head = nn.Linear(WIDTH, HISTORY)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(
        nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), head
    )


def _products_of(outputs: Tensor, wanted: Tensor) -> tuple[Floats, Floats, Floats]:
    """Return inner products of outputs, with what is wanted, and of that with itself."""
    gram = torch.einsum("rif,rjf->rij", outputs, outputs)
    moment = torch.einsum("rif,rf->ri", outputs, wanted)
    square = wanted.double().square().sum(dim=1)
    return gram.double().cpu().numpy(), moment.double().cpu().numpy(), square.cpu().numpy()


def _open_gaps(products: Products, rng: np.random.Generator) -> Gaps:
    """Draw gaps of full compute: none lacks anything where it begins."""
    gram, sigmas = products
    cases, steps = gram.shape[:2]
    moves = np.diff(sigmas)
    numbers = rng.integers(cases, size=_OPEN)
    first = rng.integers(0, max(1, steps - 3), size=_OPEN)
    count = rng.integers(1, HISTORY + 1, size=_OPEN)
    longest = max(2, steps // 2 - 1)
    apart = rng.integers(1, max(2, steps // 3), size=(_OPEN, HISTORY - 1))
    known = np.full((_OPEN, HISTORY), -1, dtype=np.int64)
    ends = np.concatenate([first[:, None], first[:, None] + apart.cumsum(axis=1)], axis=1)
    for number in range(_OPEN):
        own = np.unique(np.minimum(ends[number, : count[number]], steps - 2))
        known[number, : len(own)] = own[::-1]
    stops = np.minimum(known[:, 0] + rng.integers(2, longest + 1, size=_OPEN), steps)
    there = known >= 0
    inside = (np.arange(steps) >= known[:, :1]) & (np.arange(steps) < stops[:, None])
    moved = inside * moves
    own = gram[numbers]
    outputs = np.take_along_axis(own, np.maximum(known, 0)[:, :, None], axis=1)
    moment = np.einsum("git,gt->gi", outputs, moved) * there
    square = np.einsum("gs,gst,gt->g", moved, own, moved)
    at = np.take_along_axis(outputs, np.maximum(known, 0)[:, None, :], axis=2)
    return Gaps(known, stops, at * (there[:, :, None] & there[:, None, :]), moment, square)
