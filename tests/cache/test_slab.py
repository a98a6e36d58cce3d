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
        assert allocator.take(max((n for _, n in allocator.gaps()), default=0) + 1) is None
    for offset in taken:
        allocator.give(offset)
    assert allocator.gaps() == [(0, CAPACITY)]


@given(
    st.lists(st.tuples(st.sampled_from("tgl"), st.integers(0, 2000)), max_size=200),
    st.integers(0, 2 * CAPACITY),
)
def test_bytes_add_up_while_a_slab_changes_its_size(
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
        elif what == "l":
            allocator.lay([(0, 7 * number)])
        spans = sorted([*taken.items(), *allocator.gaps()])
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))
        assert sum(n for _, n in allocator.gaps()) == allocator.free_bytes
        assert sum(taken.values()) == allocator.used_bytes
        inside = sum(max(0, min(n, allocator.end - start)) for start, n in spans)
        assert inside == allocator.end, "no byte of the slab is lost"
        assert all(start + size <= allocator.end for start, size in allocator.gaps())
    allocator.lay([(0, last)])
    for offset in taken:
        allocator.give(offset)
    assert allocator.reach == allocator.end == allocator.capacity == last - last % ALIGN
    assert sum(n for _, n in allocator.gaps()) == allocator.capacity


def test_sizes_that_come_again_take_the_same_places() -> None:
    allocator = Allocator(CAPACITY, align=ALIGN)
    places = [allocator.take(600) for _ in range(10)]
    assert None not in places
    for _ in range(1000):
        for place in places:
            assert place is not None
            allocator.give(place)
        assert {allocator.take(600) for _ in places} == set(places)


def test_a_slab_in_two_pieces_is_cut_behind_what_is_used() -> None:
    allocator = Allocator(640, align=ALIGN)
    first = allocator.take(640)
    allocator.lay([(0, 640), (768, 128)])

    assert allocator.take(192) is None, "an extent would lie in both"
    assert allocator.take(128) == 768
    assert first is not None
    allocator.give(768)
    allocator.lay([(0, 64)])
    assert (allocator.capacity, allocator.end, allocator.reach) == (640, 64, 640)
    assert allocator.beyond(first)
    allocator.give(first)
    assert (allocator.capacity, allocator.end, allocator.gaps()) == (64, 64, [(0, 64)])
