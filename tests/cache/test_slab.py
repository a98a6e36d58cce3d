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


@given(
    st.lists(st.tuples(st.sampled_from("tgcw"), st.integers(0, 900)), max_size=200),
    st.integers(0, CAPACITY),
)
def test_bytes_add_up_while_a_slab_is_cut_and_grows(
    moves: list[tuple[str, int]], last: int
) -> None:
    allocator = Allocator(CAPACITY, align=ALIGN)
    taken: dict[int, int] = {}
    for what, number in moves:
        if what == "t":
            offset = allocator.take(number)
            if offset is not None:
                taken[offset] = allocator.rounded(number)
                assert not allocator.beyond(offset)
        elif what == "g" and taken:
            offset = sorted(taken)[number % len(taken)]
            allocator.give(offset)
            del taken[offset]
        elif what == "c":
            allocator.cut(7 * number)
        elif what == "w":
            allocator.grow(number)
        spans = sorted([*taken.items(), *allocator.gaps()])
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))
        assert sum(n for _, n in allocator.gaps()) == allocator.free_bytes
        assert sum(taken.values()) == allocator.used_bytes
        assert all(start + size <= allocator.end for start, size in allocator.gaps())
    allocator.cut(last)
    for offset in taken:
        allocator.give(offset)
    assert allocator.reach == allocator.end <= last
    assert allocator.capacity == sum(n for _, n in allocator.gaps()) <= last


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
    assert (allocator.capacity, allocator.end, allocator.reach) == (640, 64, 640)
    assert allocator.beyond(first)
    allocator.give(first)
    assert (allocator.capacity, allocator.end, allocator.gaps()) == (64, 64, [(0, 64)])
