"""Captioned procedural scenes: what the embedded pipeline is trained on.

A scene is one shaded object with a drop shadow on a textured two-tone background. Its six
attributes are named by the caption; everything else (exact position, size, light, phase of the
stripes, pattern of the background) is drawn from a generator. Pure tensor functions, no model and
no file is touched here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

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
SHAPES = ("disc", "ring", "square", "diamond", "triangle", "cross", "star", "heart", "moon", "pill")
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

_STRIPE_PERIOD = 0.125  # of the side: 8 px at 64 px, two tokens of the transformer
_SHADOW_SHIFT = (0.035, 0.05)
_SHADOW_BLUR = 0.05


class Scene(NamedTuple):
    """Attributes and pixels of a batch of scenes."""

    attributes: Tensor
    """(B, 6) int64, columns as in `ATTRIBUTES`."""
    images: Tensor
    """(B, 3, side, side) float32 in [0, 1]."""


def caption(attributes: Sequence[int]) -> str:
    """Name six attributes: "a small striped orange moon at left on a white background"."""
    shape, color, background, size, texture, position = (
        values[index] for values, index in zip(ATTRIBUTES.values(), attributes, strict=True)
    )
    return f"a {size} {texture} {color} {shape} at {position} on a {background} background"


def parse_caption(text: str) -> tuple[int, ...]:
    """Invert `caption`.

    Raises:
        ValueError: If the text was not made by `caption`.
    """
    words = text.split()
    try:
        _, size, texture, color, shape, _, position, _, _, background, _ = words
        named = (shape, color, background, size, texture, position)
        attributes = tuple(
            v.index(word) for v, word in zip(ATTRIBUTES.values(), named, strict=True)
        )
        if caption(attributes) != text:
            raise ValueError("other words between the attributes")
    except ValueError as error:
        example = caption((0,) * len(ATTRIBUTES))
        raise ValueError(f"expected a caption like {example!r}, received {text!r}") from error
    return attributes


def sample_attributes(count: int, generator: torch.Generator) -> Tensor:
    """Draw attributes uniformly: (count, 6) int64."""
    columns = [torch.randint(len(v), (count,), generator=generator) for v in ATTRIBUTES.values()]
    return torch.stack(columns, dim=1)


def sample_scenes(count: int, generator: torch.Generator, *, side: int = 64) -> Scene:
    """Draw attributes and render them."""
    attributes = sample_attributes(count, generator)
    return Scene(attributes, render(attributes, generator, side=side))


def render(attributes: Tensor, generator: torch.Generator, *, side: int = 64) -> Tensor:
    """Render scenes; what the attributes leave open is drawn from the generator.

    Args:
        attributes: (B, 6) int64, columns as in `ATTRIBUTES`.
        generator: Source of position, size, light and texture phases.
        side: Pixels per side of the square images.

    Returns:
        (B, 3, side, side) float32 in [0, 1].
    """
    count = attributes.shape[0]
    shape, color, background, size, texture, position = attributes.unbind(1)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator))[:, None, None]

    axis = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = _pick(tuple(SIZES.values()), size) * uniform(0.94, 1.06)
    center_x = _pick(tuple(POSITIONS.values()), position) + uniform(-0.02, 0.02)
    center_y = 0.5 + uniform(-0.05, 0.05)
    u, v = (x - center_x) / radius, (y - center_y) / radius

    distance = _signed_distance(u, v, shape) * radius
    cover = _smooth_step(-distance * side + 0.5)
    dx, dy = _SHADOW_SHIFT
    cast = _signed_distance(u - dx / radius, v - dy / radius, shape) * radius
    shadow = 0.45 * _smooth_step(0.5 - cast / _SHADOW_BLUR)

    ground = _ground(x, y, background, uniform)
    ground = ground * (1 - shadow[:, None])

    stripes = torch.sin(2 * math.pi * ((x + y) / math.sqrt(2) / _STRIPE_PERIOD + uniform(0.0, 1.0)))
    stripes = 0.5 + 0.5 * torch.tanh(3 * stripes)
    striped = (texture == TEXTURES.index("striped"))[:, None, None]
    tone = torch.where(striped, 0.42 + 0.68 * stripes, torch.ones(()))
    light = 1.0 - 0.16 * (0.7 * u + 0.7 * v).clamp(-1.2, 1.2) + uniform(-0.03, 0.03)
    base = torch.tensor(tuple(COLORS.values()))[color][:, :, None, None]
    body = (base * (tone * light)[:, None]).clamp(0, 1)
    return torch.lerp(ground, body, cover[:, None]).clamp(0, 1)


def _ground(
    x: Tensor, y: Tensor, background: Tensor, uniform: Callable[[float, float], Tensor]
) -> Tensor:
    """Return a background of two close tones in soft waves: (B, 3, side, side)."""
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


def _polygon(u: Tensor, v: Tensor, corners: Sequence[tuple[float, float]]) -> Tensor:
    """Signed distance to a simple polygon, negative inside.

    Source: the edge-walking polygon distance of Inigo Quilez, "2D distance functions".
    """
    best = torch.full_like(u, math.inf)
    sign = torch.ones_like(u)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = u - ax, v - ay
        along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        best = torch.minimum(best, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        above, below, left = v >= ay, v < by, ex * wy > ey * wx
        crossing = (above & below & left) | (~above & ~below & ~left)
        sign = torch.where(crossing, -sign, sign)
    return sign * best.sqrt()


def _star_corners() -> tuple[tuple[float, float], ...]:
    radii = (1.12, 0.47)
    return tuple(
        (radii[i % 2] * math.sin(math.pi * i / 5), -radii[i % 2] * math.cos(math.pi * i / 5))
        for i in range(10)
    )


def _cross_corners() -> tuple[tuple[float, float], ...]:
    a, b = 0.36, 1.0
    quarter = ((a, b), (a, a), (b, a), (b, -a), (a, -a), (a, -b))
    return quarter + tuple((-p, -q) for p, q in quarter)


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """Approximate distance to a heart: two discs over a wedge."""
    lobes = torch.hypot(u.abs() - 0.47, v + 0.33) - 0.56
    wedge = _polygon(u, v, ((-0.93, 0.0), (0.0, -0.4), (0.93, 0.0), (0.0, 1.05)))
    return torch.minimum(lobes, wedge)


def _signed_distance(u: Tensor, v: Tensor, shape: Tensor) -> Tensor:
    """Distance to the outline in units of the radius, negative inside; the shape is chosen per row.

    Args:
        u: (B, side, side) horizontal coordinate relative to the centre, in radii.
        v: (B, side, side) vertical coordinate, downwards.
        shape: (B,) index into `SHAPES`.
    """
    length = torch.hypot(u, v)
    outlines = {
        "disc": length - 1.0,
        "ring": (length - 0.74).abs() - 0.28,
        "square": torch.maximum(u.abs(), v.abs()) - 0.86,
        "diamond": (u.abs() * 1.35 + v.abs() - 1.15) / 1.68,
        "triangle": _polygon(u, v, ((0.0, -1.0), (1.05, 0.85), (-1.05, 0.85))),
        "cross": _polygon(u, v, _cross_corners()),
        "star": _polygon(u, v, _star_corners()),
        "heart": _heart(u, v),
        "moon": torch.maximum(length - 1.0, 0.82 - torch.hypot(u - 0.55, v + 0.2)),
        "pill": torch.hypot((u.abs() - 0.62).clamp(min=0), v) - 0.45,
    }
    stacked = torch.stack([outlines[name] for name in SHAPES])
    return stacked[shape, torch.arange(len(shape))]


def is_held_out(attributes: Tensor) -> Tensor:
    """Mark the tenth of all captions that the transformer never sees in training: (B,) bool.

    Args:
        attributes: (B, 6) int64, columns as in `ATTRIBUTES`.
    """
    code = torch.zeros(attributes.shape[0], dtype=torch.int64)
    for column, values in zip(attributes.unbind(1), ATTRIBUTES.values(), strict=True):
        code = code * len(values) + column
    # Even over shapes, colors, backgrounds and sizes. The parity of the code makes the held-out
    # captions plain at left, plain at right or striped at center; the other three pairs are always
    # trained on.
    return (code * 2_654_435_761) % 2**32 % 10 == 0
