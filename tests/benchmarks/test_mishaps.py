"""A share of every case; `benchmarks/chaos.py` runs them in full."""

from pathlib import Path

import pytest
import torch

from benchmarks.mishaps import damage, faults, folders, late, machine, processes, requests, threads
from benchmarks.mishaps.children import Child
from benchmarks.mishaps.outcome import CRASH, STALE, Beat, Findings, Mishap, no_beat

AMOUNTS: dict[Mishap, int] = {
    machine.against_dict: 500,
    damage.flipped_bits: 40,
    damage.swapped_blocks: 12,
    faults.failing_calls: 300,
    faults.cut_files: 300,
    faults.full_disk: 100,
    faults.no_descriptors: 60,
    processes.killed: 10,
    processes.side_by_side: 60,
    processes.forked: 5,
    folders.refused: 20,
    threads.distinct_keys: 150,
    threads.same_keys: 150,
    threads.closed_meanwhile: 5,
    late.late_copies: 150,
    requests.cancelled: 6,
    requests.replayed: 4,
    requests.soak: 50,
}


@pytest.mark.parametrize("case", AMOUNTS, ids=lambda case: case.__name__)
def test_nothing_goes_wrong(case: Mishap, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)

    counts, details = case(AMOUNTS[case], folder, no_beat)

    assert not counts.total(), details


@pytest.mark.gpu
def test_no_read_is_stale_on_a_gpu() -> None:
    found = Findings()

    reads = [late.schedule(found, seed, late.on_cuda, None) for seed in range(200)]

    assert sum(reads) > 0
    assert not found.counts[STALE], found.notes


def test_a_case_that_dies_is_noticed() -> None:
    def die(beat: Beat) -> None:
        raise RuntimeError

    ended = Child(die).wait()

    assert ended.crashed
    assert not ended.hung


def test_a_case_that_finds_something_says_so() -> None:
    found = Findings()
    found.expect(bool(torch.tensor(False)), CRASH, "as it should")

    counts, details = found.outcome()

    assert counts[CRASH] == 1
    assert details == {"wrong": ["crash_count: as it should"]}
