import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.traces.simulator import RULES, Access, schedule_trace, simulate
from ditcache_rl.types import Mode

TRACES = st.lists(st.builds(Access, st.integers(0, 4), st.booleans(), st.just(1)), max_size=12)


def best_hits(trace: list[Access], capacity: int) -> int:
    """Try every way to fill the tier; the independent answer to what is possible."""
    sizes = {key: nbytes for key, _, nbytes in trace}
    states: dict[frozenset[object], int] = {frozenset(): 0}
    for key, is_write, _ in trace:
        after: dict[frozenset[object], int] = {}
        for held, hits in states.items():
            gained = hits + (not is_write and key in held)
            candidates = sorted((held - {key}) | {key}, key=str)
            for count in range(len(candidates) + 1):
                for chosen in itertools.combinations(candidates, count):
                    if sum(sizes[k] for k in chosen) <= capacity:
                        kept = frozenset(chosen)
                        after[kept] = max(after.get(kept, 0), gained)
        states = after
    return max(states.values())


@given(TRACES, st.integers(0, 3))
@settings(max_examples=200)
def test_belady_is_optimal_for_equal_sizes(trace: list[Access], capacity: int) -> None:
    assert simulate(trace, capacity, "belady").hits == best_hits(trace, capacity)


@pytest.mark.parametrize("rule", RULES)
@given(trace=TRACES, capacity=st.integers(0, 3))
@settings(max_examples=40)
def test_no_rule_beats_the_optimum(rule: str, trace: list[Access], capacity: int) -> None:
    assert simulate(trace, capacity, rule).hits <= best_hits(trace, capacity)


def test_on_a_loop_recency_hits_nothing_and_the_known_future_half() -> None:
    modes = np.ones((30, 40), dtype=np.int8)
    modes[::3] = Mode.COMPUTE
    trace = schedule_trace(modes)

    rates = {rule: simulate(trace, 20, rule).hit_rate for rule in RULES}

    assert rates["lru"] == rates["fifo"] == 0.0
    assert rates["belady"] == pytest.approx(0.5, abs=0.01)
    assert rates["farthest"] >= rates["mru"]


def test_with_unequal_sizes_little_is_lost_against_the_best_choice() -> None:
    rng = random.Random(0)
    reached = possible = 0
    for _ in range(100):
        sizes = [rng.randint(1, 3) for _ in range(4)]
        keys = [rng.randrange(4) for _ in range(12)]
        trace = [Access(key, rng.random() < 0.4, sizes[key]) for key in keys]
        reached += simulate(trace, 4, "belady").hits
        possible += best_hits(trace, 4)

    assert 0.9 * possible <= reached <= possible
