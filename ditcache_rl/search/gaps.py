"""Fit coefficients for every path: first to full compute, then to what whole paths end with.

Outputs of full compute tell what any single gap would lack. What it does to the image depends on
the gaps before and after it, so paths as a controller takes them are drawn, and once more with each
gap's update moved a little: that tells, to first order, the end of every path under any update.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import is_whole
from ditcache_rl.schedules import ComputePath
from ditcache_rl.schedules.gaps import (
    FEATURES,
    LINE,
    LONGEST,
    WIDTH,
    GapModel,
    gap_features,
)
from ditcache_rl.search.calibrate import Products, fitted_gap_costs
from ditcache_rl.search.gap_costs import random_paths, shaken_paths
from ditcache_rl.search.gap_ends import CaseOnPath, follow, tell, tell_anywhere
from ditcache_rl.search.gap_products import GapProducts, open_gaps
from ditcache_rl.types import HISTORY, Floats

#: Steps of Adam on gaps of full compute, and after each round of paths.
_OPEN_FITS, _FITS = 800, 300
#: Gaps of a step of Adam, and the first learning rate.
_BATCH, _RATE = 2048, 3e-3
#: Share of paths that are drawn at random, for controllers that decide in another way.
_RANDOM = 0.25
#: Keeps logarithms finite.
_TINY = 1e-12


class GapSearch:
    """Draws cases on any paths, and fits coefficients to them.

    Args:
        board: Pipeline and steps.
        cases: What is drawn; full compute of them is recorded first.
        rng: Draws paths and gaps.

    Raises:
        UnsupportedModelError: If the denoiser is not cached as a whole, guidance is no fixed sum of
            its branches, or a step of the sampler is not the output times the change of the noise
            level.
    """

    def __init__(self, board: Board, cases: Sequence[Case], *, rng: np.random.Generator) -> None:
        if board.sites != 1 or not is_whole(board.blocks):
            raise UnsupportedModelError(
                "expected a denoiser that is cached as a whole to fit gaps, received "
                f"{board.sites} sites of its blocks"
            )
        self._board, self._rng, self._cases = board, rng, tuple(cases)
        self._replays = [
            Replay(board, cases[start : start + board.rows])
            for start in range(0, len(cases), board.rows)
        ]
        self.sigmas = self._replays[0].sigmas
        self._moves = np.diff(self.sigmas)
        for replay in self._replays:
            self._check_steps(replay)
        self._targets = [replay.recorded() for replay in self._replays]
        self._network: nn.Sequential | None = None

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
            rounds: Of paths and fits.
            paths: Drawn in a round.
            on_round: Hears the share that is done.
        """
        products = self.products()
        self._learn(open_gaps(products, self._rng), _OPEN_FITS)
        costs = fitted_gap_costs(products)
        told: list[GapProducts] = []
        for index in range(rounds):
            model = self.model
            told += self.tell(self._paths(costs, paths), model)
            self._learn(GapProducts.joined(told), _FITS)
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

    def follow(self, path: ComputePath, case: int, model: GapModel) -> tuple[Tensor, Tensor]:
        """Do what `gap_ends.follow` does, for the number of a case."""
        return follow(self._board, self._replays[0], self._asked(path, case, model))

    def tell(self, paths: Sequence[ComputePath], model: GapModel) -> Iterator[GapProducts]:
        """Follow paths, each on a case that is drawn, and sum up what is told.

        In the crew of the board, if there is one.

        Args:
            paths: Computed steps of each.
            model: What carries the latents over the gaps.
        """
        count = len(self._cases)
        asked = [self._asked(path, int(self._rng.integers(count)), model) for path in paths]
        if self._board.crew is None:
            return (tell(self._board, self._replays[0], one) for one in asked)
        return self._board.spread(tell_anywhere, [(self._cases[:1], one) for one in asked])

    def _asked(self, path: ComputePath, case: int, model: GapModel) -> CaseOnPath:
        part, place = divmod(case, self._board.rows)
        # Copies: what travels takes its whole storage along.
        start, target = (
            self._targets[part][end][place : place + 1].cpu().clone() for end in (0, -1)
        )
        return CaseOnPath(self._cases[case], start, target, path, model)

    def _paths(self, costs: Floats, count: int) -> list[ComputePath]:
        # Every gap is followed to the end of its path, at a price that grows with the square of
        # their number; longer paths gain with those that are drawn.
        others = round(_RANDOM * count)
        return [
            *shaken_paths(costs, count - others, self._rng, longest=LONGEST),
            *random_paths(self._board.steps, others, self._rng, longest=LONGEST),
        ]

    def _check_steps(self, replay: Replay) -> None:
        """Refuse what a single update can't carry over a gap."""
        if not replay.linear:
            raise UnsupportedModelError(
                "expected guidance that adds the outputs of its branches to fit gaps, received one "
                "that rescales them, or changes from step to step"
            )
        steps = zip(itertools.pairwise(replay.recorded()), replay.outputs(), strict=True)
        for ((before, after), output), move in zip(steps, self._moves, strict=True):
            if not torch.allclose(after, before + move * output, atol=1e-4):
                raise UnsupportedModelError(
                    "expected a sampler that adds the output times the change of the noise level "
                    f"to fit gaps, received {type(self._board.pipe.scheduler).__name__}"
                )

    def _learn(self, told: GapProducts, fits: int) -> None:
        """Move the network towards the least errors; each counts by its logarithm."""
        count, gaps = told.stops.shape
        seen = gap_features(told.known.reshape(-1, HISTORY), told.stops.ravel(), self.sigmas)
        gram, moment, square, least = (
            torch.as_tensor(one) for one in (told.gram, told.moment, told.square, told.least)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self._rng.integers(2**31)))
            if self._network is None:
                self._mean, self._scale = seen.mean(axis=0), seen.std(axis=0) + 1e-6
                self._network = _network()
            inputs = torch.as_tensor((seen - self._mean) / self._scale, dtype=torch.float32)
            inputs = inputs.view(count, gaps, FEATURES)
            adam = torch.optim.Adam(self._network.parameters(), lr=_RATE)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, fits)
            for _ in range(fits):
                part = torch.randint(count, (min(count, _BATCH // gaps),))
                along = self._network(inputs[part]).double() + torch.as_tensor(LINE)
                along = along.flatten(1)
                error = (
                    square[part]
                    - 2 * (along * moment[part]).sum(dim=1)
                    + torch.einsum("gi,gij,gj->g", along, gram[part], along)
                )
                loss = torch.log(error.clamp_min(0) + least[part] + _TINY).mean()
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                falling.step()


def _network() -> nn.Sequential:
    head = nn.Linear(WIDTH, HISTORY)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(
        nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), head
    )
