"""Play sequences of moves, and make those that find something short."""

from __future__ import annotations

import random
import traceback
from collections.abc import Sequence

import torch

from benchmarks.misuse.moves import MOVES, Move
from benchmarks.misuse.subjects import KINDS, Ask, Truths, draw
from benchmarks.misuse.world import BARE, Finding, Playground

_SHORTEST, _LONGEST = 4, 14


def sequence(seed: int) -> list[Move]:
    """Make the moves of a seed up."""
    rng = random.Random(seed)
    names = rng.choices(
        list(MOVES), [kind.weight for kind in MOVES.values()], k=rng.randint(_SHORTEST, _LONGEST)
    )
    return [Move(name, *(rng.randrange(60) for _ in range(4))) for name in names]


def kind_of(seed: int) -> str:
    """Say on which pipeline a seed is played."""
    return KINDS[seed % len(KINDS)]


def play(kind: str, moves: Sequence[Move], truths: Truths) -> tuple[str, str] | None:
    """Play, detach everything, and draw once more.

    Compiled calls are there, and run as they are: what a compiler does is not in question here.

    Returns:
        The figure that the first finding counts in, and a sentence; None without one.
    """
    with torch.compiler.set_stance("force_eager"):
        return _played(kind, moves, truths)


def _played(kind: str, moves: Sequence[Move], truths: Truths) -> tuple[str, str] | None:
    world = Playground(kind, truths)
    move: Move | None = None
    try:
        for move in moves:
            move(world)
            world.check_caches()
        move = None
        for held in list(world.runs):
            world.end(held, held.context)
        world.check_nothing_left()
        for subject in world.subjects[:2]:
            ask = Ask(0, False, 3)
            world.expect(draw(kind, subject.pipe, ask), subject, ask, 0)
    except Finding as finding:
        figure, sentence = finding.args
        return figure, f"{'in the end' if move is None else move.name}: {sentence}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "in the end" if move is None else move.name
        return BARE, f"{where}: {error!r:.200} at {place.filename.rpartition('/')[2]}:{place.name}"
    return None


def shortened(kind: str, moves: Sequence[Move], truths: Truths, figure: str) -> list[Move]:
    """Leave out every move without which the same figure is still found."""
    kept = list(moves)
    for move in list(kept):
        tried = [other for other in kept if other is not move]
        found = play(kind, tried, truths)
        if found is not None and found[0] == figure:
            kept = tried
    return kept
