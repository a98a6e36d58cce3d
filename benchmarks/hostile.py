"""What comes of a pipeline that is attached, copied, changed and interrupted in any order?

Random sequences of 4 to 14 moves on three tiny pipelines: attach, for a block or until detached,
from two tasks; detach in any order; copy, deepcopy, pickle, session; call with other seeds, sizes
and steps; call within a callback; exceptions; cancelled calls; other weights, adapters, precision,
schedulers and compiled blocks, between calls and within them. Every image is compared, bit by bit,
with that of a pipeline that nothing else has happened to: under all-compute never attached, under
a controller attached for that call. In the end everything is detached.

`wrong_image_count`: sequences with an image that is not the truth.
`left_behind_count`: sequences after which something of ours is left: bytes after a call, or a
class, an attribute or a tap after everything has been detached.
`bare_error_count`: sequences that end in an error that the user did not raise.
`sequences_count`: sequences that were played. A sequence ends at its first finding; `details` has
the first ones, shortened.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from typing import Any

import torch
from rich.progress import track

from benchmarks.harness import Benchmark, parser
from benchmarks.misuse.play import kind_of, play, sequence, shortened
from benchmarks.misuse.subjects import Truths
from benchmarks.misuse.world import BARE, LEFT, WRONG

SEQUENCES, QUICK = 2000, 150
#: Findings that are shortened and kept.
_SHOWN = 20


def main() -> None:
    """Play and report."""
    build = parser(__doc__, quick=f"{QUICK} sequences")
    build.add_argument("--first", type=int, default=0, metavar="SEED", help="seed to begin with")
    build.add_argument("--count", type=int, metavar="N", help="play so many sequences")
    options = build.parse_args()
    torch.set_num_threads(1)
    logging.disable()  # what is emptied or lost is logged
    warnings.simplefilter("ignore")
    count = options.count or (QUICK if options.quick else SEQUENCES)
    run, (counts, found) = Benchmark(), hostile(range(options.first, options.first + count))
    figures = {name: float(counts[name]) for name in (WRONG, LEFT, BARE)}
    run.finish(figures | {"sequences_count": float(count)}, found, options.json, title="hostile")


def hostile(seeds: range) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Play sequences; return how many found what, and the first of them."""
    counts, found = Counter[str](), list[dict[str, Any]]()
    truths = Truths()
    for seed in track(seeds, description="sequences"):
        kind, moves = kind_of(seed), sequence(seed)
        finding = play(kind, moves, truths)
        if finding is None:
            continue
        counts[finding[0]] += 1
        if len(found) < _SHOWN:
            moves = shortened(kind, moves, truths, finding[0])
            finding = play(kind, moves, truths) or finding
            lines = [f"{m.name} {m.a} {m.b} {m.c} {m.d}" for m in moves]
            found.append({"seed": seed, "pipeline": kind, "moves": lines, "found": finding})
            print(found[-1], flush=True)
    return counts, found


if __name__ == "__main__":
    main()
