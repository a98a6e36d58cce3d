import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.shapes.recipe.outlines import SHAPES
from ditcache_rl.shapes.recipe.scenes import (
    ATTRIBUTES,
    COLORS,
    MOST_BEHIND,
    NOTHING,
    caption,
    is_held_out,
    parse_caption,
    render,
    sample_attributes,
    sample_scenes,
)

EVERY = torch.tensor(list(itertools.product(*(range(len(v)) for v in ATTRIBUTES.values()))))
attributes = st.tuples(*(st.integers(0, len(values) - 1) for values in ATTRIBUTES.values()))
covered = st.lists(
    st.tuples(st.integers(0, len(COLORS) - 1), st.integers(0, len(SHAPES) - 1)),
    max_size=MOST_BEHIND,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(attributes)
def test_a_caption_names_its_attributes_and_nothing_else(drawn: tuple[int, ...]) -> None:
    text = caption(drawn)

    assert parse_caption(text) == drawn
    named = [values[index] for values, index in zip(ATTRIBUTES.values(), drawn, strict=True)]
    assert sorted(text.split()) == sorted([*named, "a", "at", "on", "a", "background"])


@given(attributes, covered)
def test_a_caption_names_what_is_behind_in_its_order(
    first: tuple[int, ...], behind: list[tuple[int, int]]
) -> None:
    drawn = (*first, *itertools.chain.from_iterable(behind))
    absent = (NOTHING,) * (2 * (MOST_BEHIND - len(behind)))

    assert parse_caption(caption(drawn)) == drawn
    assert caption((*drawn, *absent)) == caption(drawn)


def test_no_two_scenes_share_a_caption() -> None:
    captions = {caption(row) for row in EVERY.tolist()}

    assert len(captions) == len(EVERY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "a large plain red cube at left on a white background",
        "a large plain red disc at left over a disc on a white background",
        "a large plain red disc at left over a orange disc on a white background",
    ],
)
def test_what_is_no_caption_is_answered_with_an_example_of_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a caption like 'a .* background'") as caught:
        parse_caption(text)

    assert f"received {text!r}" in str(caught.value)


def test_equal_generators_draw_equal_pixels() -> None:
    first, second = sample_scenes(16, seeded(3)), sample_scenes(16, seeded(3))
    other = sample_scenes(16, seeded(4))

    assert torch.equal(first.attributes, second.attributes)
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("side", [32, 64])
def test_images_are_float32_within_zero_and_one(side: int) -> None:
    drawn, images = sample_scenes(64, seeded(), side=side)

    assert drawn.shape == (64, len(ATTRIBUTES))
    assert drawn.dtype == torch.int64
    assert images.shape == (64, 3, side, side)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1


def test_every_value_of_every_attribute_is_drawn() -> None:
    drawn = sample_attributes(2000, seeded())

    for column, values in zip(drawn.unbind(1), ATTRIBUTES.values(), strict=True):
        assert set(column.tolist()) == set(range(len(values)))


def test_as_many_scenes_have_no_object_behind_as_have_one_and_more() -> None:
    drawn = sample_attributes(4000, seeded(), behind=MOST_BEHIND)

    shapes = drawn[:, 7::2]
    counts = (shapes != NOTHING).sum(1)
    # A quarter of 4000 trembles by 27.
    assert counts.bincount().tolist() == pytest.approx([1000] * (MOST_BEHIND + 1), abs=110)
    assert torch.equal(drawn[:, 6::2] == NOTHING, shapes == NOTHING)
    assert torch.equal(shapes != NOTHING, torch.arange(MOST_BEHIND) < counts[:, None])


def test_what_is_behind_shows_and_leaves_the_first_object_as_it_is() -> None:
    first = sample_attributes(30, seeded())
    nothing = torch.full((30, 2 * MOST_BEHIND), NOTHING)
    alone = render(torch.cat([first, nothing], 1), seeded())

    for place in range(MOST_BEHIND):
        one = nothing.clone()
        one[:, 2 * place : 2 * place + 2] = 0  # a red disc
        # The generator draws the same for both, so that only the disc makes a difference.
        changed = (render(torch.cat([first, one], 1), seeded()) - alone).abs().amax(1) > 0.1
        assert changed.float().mean((1, 2)).min() > 0.01
        # A small object covers its centre but for rings and moons, and stands at half height.
        solid = ~torch.isin(first[:, 0], torch.tensor([SHAPES.index(n) for n in ("ring", "moon")]))
        columns = 64 * torch.tensor((0.3, 0.5, 0.7))[first[:, 5]]
        assert not changed[solid, 33, columns[solid].long()].any()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_visibly_changes_the_image(name: str) -> None:
    column, count = list(ATTRIBUTES).index(name), len(ATTRIBUTES[name])
    scenes = sample_attributes(4, seeded()).repeat_interleave(count, dim=0)
    scenes[:, column] = torch.arange(count).repeat(4)

    # One generator state per picture: all that is left to chance stays the same.
    images = torch.cat([render(row[None], seeded()) for row in scenes]).view(4, count, 3, 64, 64)

    for one, other in itertools.combinations(range(count), 2):
        changed = (images[:, one] - images[:, other]).abs().amax(1) > 0.1
        # A small object covers at least some 4 % of the picture, stripes half of that.
        assert changed.float().mean((1, 2)).min() > 0.01, (ATTRIBUTES[name][one], other)


def test_held_out_captions_are_about_a_tenth_of_all_and_of_each_value() -> None:
    held_out = is_held_out(EVERY).double()

    assert held_out.mean().item() == pytest.approx(0.1, abs=0.01)
    for column, values in zip(EVERY.unbind(1), ATTRIBUTES.values(), strict=True):
        for index, value in enumerate(values):
            assert held_out[column == index].mean().item() == pytest.approx(0.1, abs=0.05), value


def test_whether_a_caption_is_held_out_does_not_depend_on_its_batch() -> None:
    alone = torch.cat([is_held_out(row[None]) for row in EVERY[:200]])

    assert torch.equal(alone, is_held_out(EVERY)[:200])


def test_what_is_behind_does_not_change_whether_a_caption_is_held_out() -> None:
    drawn = sample_attributes(200, seeded(), behind=MOST_BEHIND)

    assert torch.equal(is_held_out(drawn), is_held_out(drawn[:, :6]))
