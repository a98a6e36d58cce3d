import itertools

from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.cache.slab import Allocator

CAPACITY, ALIGN = 64 * 100, 64


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 900)), max_size=200))
def test_extents_never_overlap_and_bytes_add_up(moves: list[tuple[bool, int]]) -> None:
    allocator = Allocator(CAPACITY, align=ALIGN)
    taken: dict[int, int] = {}
    for take, number in moves:
        if take:
            offset = allocator.take(number)
            if offset is not None:
                taken[offset] = allocator.rounded(number)
        elif taken:
            offset = sorted(taken)[number % len(taken)]
            allocator.give(offset)
            del taken[offset]
        spans = sorted([*taken.items(), *allocator.gaps()])
        assert all(start % ALIGN == 0 for start, _ in spans)
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))
        assert sum(n for _, n in spans) == CAPACITY
        assert allocator.used_bytes + allocator.free_bytes == CAPACITY
        assert allocator.take(allocator.largest_free_bytes + 1) is None
    for offset in taken:
        allocator.give(offset)
    assert allocator.gaps() == [(0, CAPACITY)]


def test_sizes_that_come_again_take_the_same_places() -> None:
    allocator = Allocator(CAPACITY, align=ALIGN)
    places = [allocator.take(600) for _ in range(10)]
    assert None not in places
    for _ in range(1000):
        for place in places:
            assert place is not None
            allocator.give(place)
        assert {allocator.take(600) for _ in places} == set(places)


def test_a_slab_grows_and_is_cut_behind_what_is_used() -> None:
    allocator = Allocator(640, align=ALIGN)
    first = allocator.take(640)
    base = allocator.grow(128)

    assert base == 640 + ALIGN
    assert allocator.take(128) == base
    assert first is not None
    allocator.give(base)
    allocator.cut(64)
    assert (allocator.capacity, allocator.end) == (640, 640)
    allocator.give(first)
    allocator.cut(64)
    assert (allocator.capacity, allocator.end, allocator.gaps()) == (64, 64, [(0, 64)])
