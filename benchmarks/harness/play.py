"""Play controllers on a board, and choose the threshold of a rule by what it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import Board, Case
from ditcache_rl.control import Controller
from ditcache_rl.types import Floats


class Played(NamedTuple):
    """What a controller did on some cases."""

    psnr_db: Floats
    computes: Floats
    """(cases,) steps computed, probe blocks not counted."""


def play(board: Board, controller: Controller, cases: Sequence[Case]) -> Played:
    """Run a controller on cases, and compare the images with the references."""
    psnr, computes = [], []
    for start in range(0, len(cases), board.rows):
        part = cases[start : start + board.rows]
        images, log, _ = board.draw(part, controller)
        assert log is not None, "a controller makes one"
        psnr.append(board.judge(images, part).psnr_db)
        computes.append(log.compute_share * board.steps)
    return Played(np.concatenate(psnr), np.concatenate(computes))


def swept(
    board: Board,
    rule: Callable[[float], Controller],
    thresholds: Sequence[float],
    halves: tuple[Sequence[Case], Sequence[Case]],
    most: Sequence[int],
) -> dict[int, tuple[float, Played]]:
    """Choose a rule's threshold for numbers of computes on one half, and play it on the other.

    Args:
        board: Where it plays.
        rule: Makes the controller of a threshold.
        thresholds: To choose from.
        halves: Prompts to choose on, and held-out prompts.
        most: Mean steps that may be computed.

    Returns:
        By that number, where one is within it, the threshold with the best mean PSNR and its play.
    """
    choose, held_out = halves
    tried = {threshold: play(board, rule(threshold), choose) for threshold in thresholds}
    found: dict[int, tuple[float, Played]] = {}
    for computes in most:
        within = [t for t, played in tried.items() if played.computes.mean() <= computes + 1e-9]
        if within:
            best = max(within, key=lambda t: tried[t].psnr_db.mean())
            found[computes] = best, play(board, rule(best), held_out)
    return found
