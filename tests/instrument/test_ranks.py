from pathlib import Path

import pytest
from torch.multiprocessing.spawn import start_processes

from benchmarks.zoo.ranks import rank_disagreements, split, wrapped


def test_ranks_that_wish_for_different_things_do_the_same(tmp_path: Path) -> None:
    start_processes(  # type: ignore[no-untyped-call]
        rank_disagreements, (2, str(tmp_path), 200), nprocs=2
    )

    assert (tmp_path / "disagreements").read_text() == "0"


@pytest.mark.slow
def test_a_denoiser_in_a_data_parallel_wrapper_is_cached_as_without_it(tmp_path: Path) -> None:
    start_processes(wrapped, (2, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_tokens_that_are_split_over_ranks_are_cached_as_on_one(tmp_path: Path) -> None:
    start_processes(split, (2, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
