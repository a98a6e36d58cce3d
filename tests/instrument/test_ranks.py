from collections.abc import Callable
from pathlib import Path

import pytest
from torch.multiprocessing.spawn import ProcessException, start_processes

from benchmarks.zoo.ranks import in_turn, rank_disagreements, split, wrapped

pytestmark = pytest.mark.slow
LAWS = (rank_disagreements, wrapped, split)
Ran = Callable[[Callable[..., None]], Path]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Run all on two ranks; gives the folder of one that went well, or raises what went wrong."""
    folder, failed = tmp_path_factory.mktemp("ranks"), list[ProcessException]()
    try:
        start_processes(in_turn, (2, str(folder), LAWS), nprocs=2)  # type: ignore[no-untyped-call]
    except ProcessException as error:
        failed.append(error)

    def of(law: Callable[..., None]) -> Path:
        own = folder / law.__name__
        if not all((own / f"done-{rank}").exists() for rank in range(2)):
            raise failed[0]
        return own

    return of


def test_ranks_that_wish_for_different_things_do_the_same(ran: Ran) -> None:
    assert (ran(rank_disagreements) / "disagreements").read_text() == "0"


def test_a_denoiser_in_a_data_parallel_wrapper_is_cached_as_without_it(ran: Ran) -> None:
    ran(wrapped)


def test_tokens_that_are_split_over_ranks_are_cached_as_on_one(ran: Ran) -> None:
    ran(split)
