"""Draw where paths end, and where they would end if the update of a gap were another one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.schedules import ComputePath
from ditcache_rl.schedules.gaps import GapModel, gap_basis
from ditcache_rl.search.gap_products import GapProducts, gaps_of
from ditcache_rl.search.parts import replay_on
from ditcache_rl.types import HISTORY

#: Change along a direction by which its effect on the final latents is measured.
_NUDGE = 1e-3
#: Share of a path's error that coefficients may hope to leave: the first order tells no more.
_LEAST = 0.3


class CaseOnPath(NamedTuple):
    """All that must be known to follow a case along a path."""

    case: Case
    start: Tensor
    """(1, ...) latents before the first step."""
    target: Tensor
    """(1, ...) after the last one, with everything computed."""
    path: ComputePath
    """Computed steps."""
    model: GapModel
    """What carries the latents over the gaps."""


@torch.no_grad()
def follow(board: Board, replay: Replay, asked: CaseOnPath) -> tuple[Tensor, Tensor]:
    """Draw latents on a path, and once more for every direction of each of its gaps.

    Args:
        board: Pipeline and steps.
        replay: Of any case on this board.
        asked: What is drawn.

    Returns:
        What the final latents lack, (features,), and what a unit along a direction does to them,
        (gaps, HISTORY, features); nothing in gaps without a step.
    """
    path, sigmas = asked.path, replay.sigmas
    known, stops = gaps_of(path, board.steps)
    updates = asked.model.update(known, stops, sigmas)
    nudged = updates[:, None] + _NUDGE * gap_basis(known, stops, sigmas)
    # The first is the path itself; those of a direction split off it at their gap.
    latents = asked.start.to(board.pipe.device)
    outputs = latents.new_zeros(HISTORY, *latents.shape)
    places: list[tuple[int, int]] = []
    for gap, step in enumerate(path):
        fresh = [
            replay.compute(step, few, cases=[asked.case] * len(few))[0]
            for few in torch.split(latents, board.rows)
        ]
        outputs = torch.cat([torch.cat(fresh)[None], outputs[:-1]])
        born = min(gap + 1, HISTORY) if stops[gap] - step > 1 else 0
        places += [(gap, direction) for direction in range(born)]
        shares = np.concatenate([[updates[gap]] * len(latents), nudged[gap, :born]])
        latents = torch.cat([latents, *[latents[:1]] * born])
        outputs = torch.cat([outputs, *[outputs[:, :1]] * born], dim=1)
        weighed = torch.as_tensor(shares, dtype=latents.dtype, device=latents.device)
        latents = latents + torch.einsum("mh,hm...->m...", weighed, outputs)
    ends = latents.flatten(1).double().cpu()
    wrong = asked.target.flatten().double().cpu() - ends[0]
    effects = torch.zeros(len(path), HISTORY, len(wrong), dtype=wrong.dtype)
    if places:
        effects[tuple(np.transpose(places))] = (ends[1:] - ends[0]) / _NUDGE
    return wrong, effects


def tell(board: Board, replay: Replay, asked: CaseOnPath) -> GapProducts:
    """Follow a case, arguments as in `follow`, and sum up what is told."""
    wrong, effects = follow(board, replay, asked)
    known, stops = gaps_of(asked.path, board.steps)
    along = torch.as_tensor(asked.model.along(known, stops, replay.sigmas)).flatten()
    flat = effects.flatten(0, 1)
    lacking = wrong + along @ flat
    return GapProducts(
        known[None],
        stops[None],
        (flat @ flat.T).numpy()[None],
        (flat @ lacking).numpy()[None],
        (lacking @ lacking).numpy()[None],
        _LEAST * (wrong @ wrong).numpy()[None],
    )


def tell_anywhere(board: Board, cases: tuple[Case, ...], asked: CaseOnPath) -> GapProducts:
    """Tell what `tell` does, on a replica of a board that has no replay yet.

    Args:
        board: Of a worker.
        cases: The one that is recorded there, once, whatever is asked afterwards.
        asked: What is drawn.
    """
    return tell(board, replay_on(board, *cases), asked)
