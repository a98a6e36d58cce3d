from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.instrument.history import SiteHistory
from ditcache_rl.types import HISTORY, EntryKey, Mode, Tier

ROWS, WIDTH = 3, 2
#: Of one slot: a float32 number for every row and feature.
SLOT_BYTES = 4 * ROWS * WIDTH
SUBSETS = st.sets(st.integers(0, ROWS - 1), min_size=1).map(sorted)


class Known(NamedTuple):
    """What a row has computed."""

    step: int
    residual: Tensor


def play(
    history: SiteHistory, cache: TieredCache, moves: list[tuple[list[int], int | None]]
) -> dict[int, list[Known]]:
    """Record residuals of some rows under changing caps; return every row's, newest first.

    After every record, what the history claims of a row must be what the row computed last.
    """
    computed: dict[int, list[Known]] = defaultdict(list)
    for step, (rows, cap) in enumerate(moves):
        cache.device.cap_bytes = cap
        residual = torch.arange(len(rows) * WIDTH).view(len(rows), WIDTH) + 100.0 * step + 1
        history.record(residual.clone(), np.array(rows), step, 1 - step / 100, Tier.DEVICE)
        for index, row in enumerate(rows):
            computed[row].insert(0, Known(step, residual[index]))

        cached = history.residuals()
        for row in range(ROWS):
            valid = int(history.valid[row])
            assert valid <= len(cached)
            for k, known in enumerate(computed[row][:valid]):
                assert history.steps[k, row] == known.step
                assert history.sigmas[k, row] == 1 - known.step / 100
                assert torch.equal(cached[k][row], known.residual)
    return computed


@given(st.lists(st.tuples(SUBSETS, st.none()), max_size=10))
def test_every_row_remembers_its_own_last_residuals(moves: list[tuple[list[int], None]]) -> None:
    cache = TieredCache()
    history = SiteHistory(cache, 0, 0, 0, ROWS)

    computed = play(history, cache, [*moves])

    assert history.valid.tolist() == [min(len(computed[row]), HISTORY) for row in range(ROWS)]
    assert cache.used_bytes <= HISTORY * SLOT_BYTES
    cache.discard_request(0)
    assert cache.used_bytes == 0


@given(
    st.lists(st.tuples(SUBSETS, st.sampled_from([0, 1, 2, 3]).map(SLOT_BYTES.__mul__)), max_size=10)
)
@settings(max_examples=200)
def test_under_any_cap_a_history_claims_only_what_is_cached(
    moves: list[tuple[list[int], int]],
) -> None:
    cache = TieredCache()
    history = SiteHistory(cache, 0, 0, 0, ROWS)

    play(history, cache, [*moves])

    assert len(cache.device) == len(history.residuals())
    wishes = np.full(ROWS, Mode.FORECAST2, dtype=np.int8)
    modes = history.effective(wishes)
    assert ((modes == Mode.COMPUTE) == (history.valid == 0)).all()


def test_a_full_cap_gives_up_the_oldest_residual_for_the_newest() -> None:
    cache = TieredCache()
    history = SiteHistory(cache, 0, 0, 0, ROWS)
    everyone = list(range(ROWS))

    play(history, cache, [(everyone, 2 * SLOT_BYTES)] * 4)

    assert history.valid.tolist() == [2] * ROWS
    assert history.steps[:2, 0].tolist() == [3, 2]


def test_a_wish_is_lowered_to_what_the_row_knows() -> None:
    cache = TieredCache()
    history = SiteHistory(cache, 0, 0, 0, ROWS)
    play(history, cache, [([0, 1], None), ([1], None)])

    lowered = [history.effective(np.full(ROWS, mode, dtype=np.int8)).tolist() for mode in Mode]

    assert lowered == [
        [Mode.COMPUTE] * 3,
        [Mode.REUSE, Mode.REUSE, Mode.COMPUTE],
        [Mode.REUSE, Mode.FORECAST1, Mode.COMPUTE],
        [Mode.REUSE, Mode.FORECAST1, Mode.COMPUTE],
    ]


def test_a_residual_that_vanished_from_the_cache_is_computed_again() -> None:
    cache = TieredCache()
    history = SiteHistory(cache, 7, 0, 0, ROWS)
    play(history, cache, [(list(range(ROWS)), None)] * 3)

    cache.discard(EntryKey(7, 0, 0, 2))

    wishes = np.full(ROWS, Mode.FORECAST2, dtype=np.int8)
    assert history.effective(wishes).tolist() == [Mode.COMPUTE] * ROWS
    history.record(torch.ones(1, WIDTH), np.array([1]), 3, 0.5, Tier.DEVICE)
    assert history.effective(wishes).tolist() == [Mode.COMPUTE, Mode.REUSE, Mode.COMPUTE]
