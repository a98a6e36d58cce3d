"""`ditcache-rl record-load`: record how busy this machine is, to train and be judged under it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ditcache_rl.cli.options import add_display
from ditcache_rl.config import check_within

HELP = "record how busy this machine is"

#: A week.
_MOST_MINUTES = 7 * 24 * 60


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--minutes", type=float, default=60.0, help="time to record")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file that a [world] may name among its loads; *.safetensors",
    )
    parser.add_argument("--duty", type=float, default=0.1, help="share of the time that is worked")
    add_display(parser)


def run(options: Namespace) -> int:
    """Record, and print what was; interrupted, what was recorded so far is there as well."""
    check_within("--minutes", options.minutes, 0, _MOST_MINUTES, above=True)
    check_within("--duty", options.duty, 0, 1, above=True)

    import numpy as np

    from ditcache_rl.cli.progress import shown_progress
    from ditcache_rl.files import check_writable
    from ditcache_rl.world.recorder import record_load
    from ditcache_rl.world.recording import Recording

    check_writable(options.out)
    seconds, found, status = 60 * options.minutes, Recording.of(np.ones(0), 1.0), 0
    with shown_progress("record-load", options) as bar:
        bar.expect(seconds)

        def hear(passed: float, recording: Recording) -> None:
            nonlocal found
            found = recording
            bar.reach(min(passed, seconds))
            bar.say(f"{recording.slowdown:.2f} times the unloaded machine")

        try:
            record_load(seconds, options.out, duty=options.duty, on_burst=hear)
        except KeyboardInterrupt:
            status = 130
    if status:
        print("interrupted", file=sys.stderr)
    if len(found.readings):
        quiet, busy = np.quantile(found.slowdowns, [0.1, 0.9])
        print(
            f"{found.seconds:.0f} s of work, {found.slowdown:.2f} times the unloaded machine; a "
            f"tenth of its pieces below {quiet:.2f}, a tenth above {busy:.2f}"
            f"\nrecorded: {options.out}"
        )
    return status
