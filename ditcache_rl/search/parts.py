"""The cases of a fit, in parts that are drawn in one call, with what full compute did to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.schedules.forecast import line_coefficients, weighted_sum
from ditcache_rl.search.samplers import check_sampler
from ditcache_rl.types import Floats


class Part(NamedTuple):
    """Cases that are carried through the loop together."""

    cases: tuple[Case, ...]
    replay: Replay
    """Of any cases: how a loop goes is known from one."""
    recorded: Sequence[Tensor]
    """(rows, ...) latents of full compute before every step, and after the last one."""

    def compute(self, step: int, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Run the denoiser and take the step: (rows, ...) latents, and what is cached."""
        output, cached = self.replay.compute(step, latents, cases=self.cases)
        return self.replay.advance(step, output, latents), cached

    def reach(
        self,
        latents: Tensor,
        outputs: Sequence[Tensor],
        known: Sequence[int],
        stop: int,
        added: Floats,
    ) -> Tensor:
        """Estimate the steps of a gap; returns the latents at its end.

        Args:
            latents: After the last computed step.
            outputs: (rows, features) what is cached of the last computed steps, newest first.
            known: These steps.
            stop: Step at which the gap ends.
            added: (HISTORY,) what is added to the coefficients of a line.
        """
        for step in range(known[0] + 1, stop):
            coefficients = line_coefficients(known, self.replay.sigmas, step) + added
            output = self.replay.estimate(step, latents, weighted_sum(outputs, coefficients[None]))
            latents = self.replay.advance(step, output, latents)
        return latents


def recorded_parts(board: Board, cases: tuple[Case, ...], begun: Sequence[Part]) -> list[Part]:
    """Record full compute of cases.

    Args:
        board: Pipeline and steps.
        cases: What is drawn.
        begun: Parts of the first of them.

    Raises:
        UnsupportedModelError: If the loop can't be taken apart, or steps of the sampler depend on
            more than latents and output.
    """
    parts = list(begun)
    for start in range(sum(len(part.cases) for part in begun), len(cases), board.rows):
        own = cases[start : start + board.rows]
        replay = Replay(board, own)
        check_sampler(replay)
        parts.append(Part(own, replay, replay.recorded()))
    return parts


def told_parts(
    board: Board, cases: tuple[Case, ...], recorded: Sequence[Sequence[Tensor]]
) -> list[Part]:
    """Make parts of what was recorded elsewhere; arguments as of `recorded_parts`."""
    replay, parts, start = replay_on(board, cases[0]), list[Part](), 0
    for one in recorded:
        own = [latents.to(board.pipe.device) for latents in one]
        parts.append(Part(cases[start : start + len(own[0])], replay, own))
        start += len(own[0])
    return parts


@lru_cache(maxsize=1)
def replay_on(board: Board, case: Case) -> Replay:
    """Return a replay of a board to compute any cases with; the one given is recorded for it once.

    For replicas of a board, which are told what they compute.
    """
    return Replay(board, [case])
