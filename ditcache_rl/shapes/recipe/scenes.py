"""Captioned procedural scenes: what the embedded pipelines are trained on.

A scene is a shaded object with a drop shadow on a textured two-tone background, over up to
`MOST_BEHIND` plain ones that it partly covers. Its six attributes, and the colors and shapes of
what is behind it, are named by the caption; everything else (exact position, size, light, phase of
the stripes, pattern of the background) is drawn from a generator. Pure tensor functions, no model
and no file is touched here.

Attributes are rows of int64: six columns as in `ATTRIBUTES`, then the color and the shape of each
object behind the first, the nearest first, with `NOTHING` in both where there is none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ditcache_rl.shapes.recipe.outlines import SHAPES, signed_distance

COLORS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "red": (0.86, 0.10, 0.12),
        "orange": (0.98, 0.52, 0.06),
        "yellow": (0.97, 0.86, 0.10),
        "lime": (0.60, 0.90, 0.14),
        "green": (0.08, 0.50, 0.18),
        "cyan": (0.10, 0.82, 0.88),
        "blue": (0.12, 0.28, 0.90),
        "purple": (0.50, 0.14, 0.70),
        "pink": (0.98, 0.45, 0.72),
        "brown": (0.46, 0.25, 0.11),
    }
)
BACKGROUNDS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "white": (0.95, 0.95, 0.95),
        "gray": (0.58, 0.58, 0.60),
        "black": (0.08, 0.08, 0.09),
        "navy": (0.13, 0.17, 0.38),
        "beige": (0.86, 0.77, 0.60),
        "mint": (0.64, 0.88, 0.76),
    }
)
SIZES: Mapping[str, float] = MappingProxyType({"small": 0.165, "large": 0.27})
TEXTURES = ("plain", "striped")
POSITIONS: Mapping[str, float] = MappingProxyType({"left": 0.3, "center": 0.5, "right": 0.7})

#: The attributes of a scene in the order of the columns of an attribute tensor, with their values.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "shape": SHAPES,
        "color": tuple(COLORS),
        "background": tuple(BACKGROUNDS),
        "size": tuple(SIZES),
        "texture": TEXTURES,
        "position": tuple(POSITIONS),
    }
)

MOST_BEHIND = 3
NOTHING = -1

#: Where what is behind stands, by its place in the caption: seen from the first object, in units of
#: the distance at which the two would touch. Steps down to it: nearer is lower, as on a floor.
_BEHIND = ((-0.68, -0.51), (0.68, -0.51), (0.0, -0.85))
_FRAME = (0.18, 0.82)  # centres of what is behind are kept inside, so that it is seen
_STRIPE_PERIOD = 0.125  # of the side: 8 px at 64 px, two tokens of the transformer
_SHADOW_SHIFT = (0.035, 0.05)
_SHADOW_BLUR = 0.05


class Scene(NamedTuple):
    """Attributes and pixels of a batch of scenes."""

    attributes: Tensor
    """(B, 6 + 2 * behind) int64."""
    images: Tensor
    """(B, 3, side, side) float32 in [0, 1]."""


def caption(attributes: Sequence[int]) -> str:
    """Name attributes: "a small striped orange moon at left over a red disc on a mint background".

    Args:
        attributes: A row; only the six of the first object, or with what is behind it.
    """
    shape, color, background, size, texture, position = (
        values[index] for values, index in zip(ATTRIBUTES.values(), attributes[:6], strict=True)
    )
    colors = tuple(COLORS)
    behind = " and ".join(
        f"{'an' if colors[other] == 'orange' else 'a'} {colors[other]} {SHAPES[outline]}"
        for other, outline in zip(attributes[6::2], attributes[7::2], strict=True)
        if outline != NOTHING
    )
    covered = f" over {behind}" if behind else ""
    first = f"a {size} {texture} {color} {shape} at {position}"
    return f"{first}{covered} on a {background} background"


def parse_caption(text: str) -> tuple[int, ...]:
    """Invert `caption`: the six attributes, then two for each object behind.

    Raises:
        ValueError: If the text was not made by `caption`.
    """
    words = text.split()
    try:
        _, size, texture, color, shape, _, position, *covered, _, _, background, _ = words
        named = (shape, color, background, size, texture, position)
        first = (v.index(word) for v, word in zip(ATTRIBUTES.values(), named, strict=True))
        colors, shapes = covered[2::4], covered[3::4]
        behind = (
            (tuple(COLORS).index(other), SHAPES.index(outline))
            for other, outline in zip(colors, shapes, strict=True)
        )
        attributes = (*first, *itertools.chain.from_iterable(behind))
        if caption(attributes) != text:
            raise ValueError("other words between the attributes")
    except ValueError as error:
        example = caption((0,) * len(ATTRIBUTES))
        raise ValueError(f"expected a caption like {example!r}, received {text!r}") from error
    return attributes


def sample_attributes(count: int, generator: torch.Generator, *, behind: int = 0) -> Tensor:
    """Draw attributes uniformly, and none to `behind` objects behind: (count, 6 + 2 * behind)."""
    columns = [torch.randint(len(v), (count,), generator=generator) for v in ATTRIBUTES.values()]
    if behind:
        shown = torch.randint(behind + 1, (count,), generator=generator)
        for place in range(behind):
            for values in (COLORS, SHAPES):
                drawn = torch.randint(len(values), (count,), generator=generator)
                columns.append(torch.where(place < shown, drawn, NOTHING))
    return torch.stack(columns, dim=1)


def sample_scenes(
    count: int, generator: torch.Generator, *, behind: int = 0, side: int = 64
) -> Scene:
    """Draw attributes and render them."""
    attributes = sample_attributes(count, generator, behind=behind)
    return Scene(attributes, render(attributes, generator, side=side))


class _Object(NamedTuple):
    """What is painted: shape and color (B,), everything else (B, 1, 1) in sides of the picture."""

    shape: Tensor
    color: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    striped: Tensor
    shown: Tensor


def render(attributes: Tensor, generator: torch.Generator, *, side: int = 64) -> Tensor:
    """Render scenes; what the attributes leave open is drawn from the generator.

    Args:
        attributes: (B, 6 + 2 * behind) int64.
        generator: Source of position, size, light and texture phases.
        side: Pixels per side of the square images.

    Returns:
        (B, 3, side, side) float32 in [0, 1].
    """
    count = attributes.shape[0]
    shape, color, background, size, texture, position = attributes[:, :6].unbind(1)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator))[:, None, None]

    everywhere = torch.ones(count, 1, 1, dtype=torch.bool)
    first = _Object(
        shape,
        color,
        radius=_pick(tuple(SIZES.values()), size) * uniform(0.94, 1.06),
        x=_pick(tuple(POSITIONS.values()), position) + uniform(-0.02, 0.02),
        y=0.5 + uniform(-0.05, 0.05),
        striped=(texture == TEXTURES.index("striped"))[:, None, None],
        shown=everywhere,
    )
    picture = _ground(side, background, uniform)
    behind = [
        _stand_behind(first, place, other, outline, uniform)
        for place, (other, outline) in enumerate(
            zip(attributes[:, 6::2].unbind(1), attributes[:, 7::2].unbind(1), strict=True)
        )
    ]
    for painted in (*reversed(behind), first):
        picture = _paint(picture, painted, uniform)
    return picture


def _stand_behind(
    first: _Object,
    place: int,
    color: Tensor,
    shape: Tensor,
    uniform: Callable[[float, float], Tensor],
) -> _Object:
    """Put a plain object where the first one covers a part of it."""
    radius = uniform(*SIZES.values())
    right, down = _BEHIND[place]
    reach = first.radius + radius
    return _Object(
        shape.clamp(min=0),
        color.clamp(min=0),
        radius=radius,
        x=(first.x + right * reach + uniform(-0.02, 0.02)).clamp(*_FRAME),
        y=(first.y + down * reach + uniform(-0.02, 0.02)).clamp(*_FRAME),
        striped=torch.zeros_like(first.striped),
        shown=(shape != NOTHING)[:, None, None],
    )


def _paint(picture: Tensor, thing: _Object, uniform: Callable[[float, float], Tensor]) -> Tensor:
    """Cast the shadow of an object on a picture and lay the object over it: (B, 3, side, side)."""
    side = picture.shape[-1]
    x, y = _grid(side)
    u, v = (x - thing.x) / thing.radius, (y - thing.y) / thing.radius
    distance = signed_distance(u, v, thing.shape) * thing.radius
    cover = _smooth_step(-distance * side + 0.5) * thing.shown
    dx, dy = _SHADOW_SHIFT
    cast = signed_distance(u - dx / thing.radius, v - dy / thing.radius, thing.shape) * thing.radius
    shadow = 0.45 * _smooth_step(0.5 - cast / _SHADOW_BLUR) * thing.shown

    stripes = torch.sin(2 * math.pi * ((x + y) / math.sqrt(2) / _STRIPE_PERIOD + uniform(0.0, 1.0)))
    stripes = 0.5 + 0.5 * torch.tanh(3 * stripes)
    tone = torch.where(thing.striped, 0.42 + 0.68 * stripes, torch.ones(()))
    light = 1.0 - 0.16 * (0.7 * u + 0.7 * v).clamp(-1.2, 1.2) + uniform(-0.03, 0.03)
    base = torch.tensor(tuple(COLORS.values()))[thing.color][:, :, None, None]
    body = (base * (tone * light)[:, None]).clamp(0, 1)
    return torch.lerp(picture * (1 - shadow[:, None]), body, cover[:, None]).clamp(0, 1)


def _grid(side: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates of pixel centres, rightwards and downwards: (side, side) each."""
    axis = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _ground(side: int, background: Tensor, uniform: Callable[[float, float], Tensor]) -> Tensor:
    """Return a background of two close tones in soft waves: (B, 3, side, side)."""
    x, y = _grid(side)
    phase, angle = 2 * math.pi * uniform(0, 1), uniform(-0.5, 0.5)
    wave = torch.sin(2 * math.pi * 2.5 * (y + angle * x) + phase)
    tones = 1.0 + 0.05 * torch.tanh(2.5 * wave) + 0.06 * (0.5 - y)
    base = torch.tensor(tuple(BACKGROUNDS.values()))[background][:, :, None, None]
    return (base * tones[:, None] + 0.02 * torch.tanh(2.5 * wave)[:, None]).clamp(0, 1)


def _pick(values: Sequence[float], index: Tensor) -> Tensor:
    return torch.tensor(values)[index][:, None, None]


def _smooth_step(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def is_held_out(attributes: Tensor) -> Tensor:
    """Mark the tenth of all first objects that the transformer never sees in training: (B,) bool.

    Args:
        attributes: (B, 6 + 2 * behind) int64; what is behind does not matter.
    """
    code = torch.zeros(attributes.shape[0], dtype=torch.int64)
    for column, values in zip(attributes[:, :6].unbind(1), ATTRIBUTES.values(), strict=True):
        code = code * len(values) + column
    # Even over shapes, colors, backgrounds and sizes. The parity of the code makes the held-out
    # captions plain at left, plain at right or striped at center; the other three pairs are always
    # trained on.
    return (code * 2_654_435_761) % 2**32 % 10 == 0
