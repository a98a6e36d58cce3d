"""What comes of hostile files, and of a pipeline that is attached and interrupted in any order?

Random sequences of 4 to 14 moves on three tiny pipelines: attach, for a block or until detached,
from two tasks; detach in any order; copy, deepcopy, pickle, session; call with other seeds, sizes
and steps; call within a callback; exceptions; cancelled calls; other weights, adapters, precision,
schedulers and compiled blocks, between calls and within them. Every image is compared, bit by bit,
with that of a pipeline that nothing else has happened to: under all-compute never attached, under
a controller attached for that call. In the end everything is detached.

Files of strangers: more than 60 hostile policies, and good files of eight kinds (policies, schedule
files, bandits, recorded requests, recorded loads, profiles, maps, environments) changed at random,
their digests made anew, and used as a user would. An audit hook hears what is executed meanwhile.
What each hostile policy takes of memory is measured in a process of its own.

`inputs_count`: changed files that were used; `refused_count` of them were refused in our words.
`crash_count`: files, hostile policies among them, of which an error came that is not ours.
`executed_count`: files in whose use something was executed or connected to.
`unrefused_count`: hostile policies that were taken.
`memory_x`: the most that reading one took, over the size of its files, or over 8 MiB if they are
smaller.
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
from benchmarks.hostility.watch import Findings, corpus, damaged, memory
from benchmarks.misuse.play import kind_of, play, sequence, shortened
from benchmarks.misuse.subjects import Truths
from benchmarks.misuse.world import BARE, LEFT, WRONG

SEQUENCES, QUICK = 2000, 150
INPUTS, QUICK_INPUTS = 100_000, 3000
#: Findings that are shortened and kept.
_SHOWN = 20


def main() -> None:
    """Play and report."""
    build = parser(__doc__, quick=f"{QUICK} sequences, {QUICK_INPUTS} files")
    build.add_argument("--first", type=int, default=0, metavar="SEED", help="seed to begin with")
    build.add_argument("--count", type=int, metavar="N", help="play so many sequences")
    build.add_argument("--inputs", type=int, metavar="N", help="change so many files")
    build.add_argument(
        "--seconds", type=float, default=600.0, help="change files no longer than this"
    )
    options = build.parse_args()
    torch.set_num_threads(1)
    logging.disable()  # what is emptied or lost is logged
    warnings.simplefilter("ignore")
    counts_asked = [
        (quick if options.quick else full) if asked is None else asked
        for asked, quick, full in (
            (options.count, QUICK, SEQUENCES),
            (options.inputs, QUICK_INPUTS, INPUTS),
        )
    ]
    run, figures = Benchmark(), dict[str, float]()
    strangers, hurt = files(counts_asked[1], seed=options.first, seconds=options.seconds)
    figures |= strangers
    count = counts_asked[0]
    counts, found = hostile(range(options.first, options.first + count))
    figures |= {name: float(counts[name]) for name in (WRONG, LEFT, BARE)}
    figures["sequences_count"] = float(count)
    run.finish(figures, [*hurt, *found], options.json, title="hostile")


def files(inputs: int, *, seed: int, seconds: float) -> tuple[dict[str, float], Findings]:
    """Read hostile policies and changed files; return the figures and what was found."""
    named, found = corpus()
    changed, more = damaged(inputs, seed=seed, seconds=seconds)
    figures = {
        "inputs_count": changed.total(),
        "refused_count": changed["refused"],
        "crash_count": changed["crashed"] + named["crashed"],
        "executed_count": changed["executed"] + named["executed"],
        "unrefused_count": named["read"],
    }
    return {**figures, "memory_x": max(memory().values())}, [*found, *more]


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
