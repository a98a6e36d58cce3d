"""The outlines of the objects in scenes, as signed distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor


def signed_distance(u: Tensor, v: Tensor, shape: Tensor) -> Tensor:
    """Distance to the outline in units of the radius, negative inside; the shape is chosen per row.

    Args:
        u: (B, side, side) horizontal coordinate relative to the centre, in radii.
        v: (B, side, side) vertical coordinate, downwards.
        shape: (B,) index into `SHAPES`.
    """
    distance = torch.empty_like(u)
    for index, name in enumerate(SHAPES):
        rows = shape == index
        distance[rows] = _OUTLINES[name](u[rows], v[rows])
    return distance


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


_OUTLINES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "disc": lambda u, v: torch.hypot(u, v) - 1.0,
        "ring": lambda u, v: (torch.hypot(u, v) - 0.74).abs() - 0.28,
        "square": lambda u, v: torch.maximum(u.abs(), v.abs()) - 0.86,
        "diamond": lambda u, v: (u.abs() * 1.35 + v.abs() - 1.15) / 1.68,
        "triangle": lambda u, v: _polygon(u, v, ((0.0, -1.0), (1.05, 0.85), (-1.05, 0.85))),
        "cross": lambda u, v: _polygon(u, v, _cross_corners()),
        "star": lambda u, v: _polygon(u, v, _star_corners()),
        "heart": _heart,
        "moon": lambda u, v: torch.maximum(
            torch.hypot(u, v) - 1.0, 0.82 - torch.hypot(u - 0.55, v + 0.2)
        ),
        "pill": lambda u, v: torch.hypot((u.abs() - 0.62).clamp(min=0), v) - 0.45,
    }
)
#: The names of the outlines, in the order of the indices of `signed_distance`.
SHAPES = tuple(_OUTLINES)
