"""What happens to a cache when everything around it goes wrong?

Every figure counts what must not happen; the cases are those of `mishaps/`, in full. Each runs
in a process of its own: one that dies is a crash, one that stands still for 30 s a hang.

`model_mismatch_count`: entries that are not what was put last, tiers above their cap, bytes that do
not add up: beside a dict (with faults, late copies, changing caps), in threads, beside other
processes, after forks, and images that differ from those of an undisturbed run.
`kill_corrupt_count`, `kill_leaked_count`: wrong reads of processes that were killed, and files or
bytes that they, or cancelled requests, left behind.
`bitflip_missed_count`, `swap_missed_count`: damaged blocks of the slab that were not noticed.
`io_fault_wrong_count`: wrong bytes while system calls fail, the disk is full and files are cut
short; unfit directories that were accepted; images other than the replay of their effective mask.
`hang_count`, `crash_count`: hangs, and exceptions or signals that a model would have died of.
`stale_read_count`: reads of something older than what was there when they began.
`soak_bytes_per_request`: growth of the resident memory per request, after a warm-up.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import Progress

from benchmarks.harness import ROOT, Benchmark, console, parser
from benchmarks.mishaps import damage, faults, folders, late, machine, processes, requests, threads
from benchmarks.mishaps.children import Child
from benchmarks.mishaps.outcome import COUNTS, CRASH, HANG, CaseOutcome, Findings, Mishap

SOAK = "soak_bytes_per_request"


class Dose(NamedTuple):
    """A case, and how much of it."""

    case: Mishap
    full: int
    quick: int


#: The longest one first, which runs beside all others.
DOSES = (
    Dose(requests.soak, 10_000, 1000),
    Dose(machine.against_dict, 10_000, 2000),
    Dose(processes.killed, 200, 50),
    Dose(damage.flipped_bits, 1000, 200),
    Dose(damage.swapped_blocks, 100, 30),
    Dose(faults.failing_calls, 10_000, 1000),
    Dose(faults.cut_files, 2000, 500),
    Dose(faults.full_disk, 1000, 300),
    Dose(faults.no_descriptors, 1000, 300),
    Dose(processes.side_by_side, 2000, 500),
    Dose(processes.forked, 100, 20),
    Dose(folders.refused, 20, 20),
    Dose(threads.distinct_keys, 5000, 500),
    Dose(threads.same_keys, 5000, 500),
    Dose(threads.closed_meanwhile, 100, 20),
    Dose(late.late_copies, 10_000, 1000),
    Dose(requests.cancelled, 20, 20),
    Dose(requests.replayed, 200, 40),
)


class Result(NamedTuple):
    """What came of a case."""

    outcome: CaseOutcome
    seconds: float


def main() -> None:
    """Run every case, and report."""
    build = parser(__doc__, quick="a tenth to a half of every case")
    build.add_argument("--only", nargs="+", metavar="CASE", help="run these cases alone")
    options = build.parse_args()
    names = [dose.case.__name__ for dose in DOSES]
    unknown = set(options.only or ()) - set(names)
    if unknown:
        build.error(f"expected cases among {names}, received {sorted(unknown)}")
    run = Benchmark()
    torch.set_num_threads(1)  # before anybody forks, and for all who are forked
    logging.disable()  # every fault that is survived is logged
    doses = [dose for dose in DOSES if dose.case.__name__ in (options.only or names)]
    runs = ROOT / "runs"  # ignored by git, so that nobody packs what lies there meanwhile
    runs.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-", dir=runs) as root,
        # No thread that draws: whoever forks should have none.
        Progress(console=console, transient=True, auto_refresh=False) as progress,
    ):
        bar = progress.add_task("", total=len(doses))

        def start(dose: Dose) -> Running:
            progress.update(bar, advance=1, description=dose.case.__name__, refresh=True)
            amount = dose.quick if options.quick else dose.full
            return Running(dose.case, amount, Path(root) / dose.case.__name__)

        first, *others = doses
        beside = start(first)
        results = [start(dose).end() for dose in others]
        results.insert(0, beside.end())
    figures = {name: float(sum(r.outcome.counts[name] for r in results)) for name in COUNTS}
    details: dict[str, object] = {}
    for dose, (outcome, seconds) in zip(doses, results, strict=True):
        wrong = {name: count for name, count in outcome.counts.items() if count}
        details[dose.case.__name__] = {"seconds": round(seconds, 1), **outcome.details, **wrong}
        if "bytes_per_request" in outcome.details:
            figures[SOAK] = float(str(outcome.details["bytes_per_request"]))
    run.finish(figures, details, options.json, title="chaos")


class Running:
    """A case in a process of its own, whose death is one of its outcomes."""

    def __init__(self, case: Mishap, amount: int, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._started = time.perf_counter()
        self._child = Child(partial(case, amount, folder))

    def end(self) -> Result:
        """Wait for its outcome."""
        ended = self._child.wait()
        seconds = time.perf_counter() - self._started
        if isinstance(ended.result, CaseOutcome):
            return Result(ended.result, seconds)
        found = Findings()
        found.add(HANG if ended.hung else CRASH, f"exit status {ended.status}")
        return Result(found.outcome(), seconds)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
