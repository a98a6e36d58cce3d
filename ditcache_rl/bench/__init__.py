"""The laboratory: draw images under a controller, replay loops, measure costs."""

from ditcache_rl.bench.board import Board, Crew, Quality, Scorer, caps_of, cases_of, named_computes
from ditcache_rl.bench.draw import Case, Drawn, draw
from ditcache_rl.bench.hands import dealt
from ditcache_rl.bench.profile import keep_profile, measure_profile
from ditcache_rl.bench.replay import Replay
from ditcache_rl.bench.world import Bill, ImageMemory, MemoryWorld, bill_of, transfers_of

__all__ = [
    "Bill",
    "Board",
    "Case",
    "Crew",
    "Drawn",
    "ImageMemory",
    "MemoryWorld",
    "Quality",
    "Replay",
    "Scorer",
    "bill_of",
    "caps_of",
    "cases_of",
    "dealt",
    "draw",
    "keep_profile",
    "measure_profile",
    "named_computes",
    "transfers_of",
]
