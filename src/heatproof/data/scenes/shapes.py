"""The outlines, as signed distances (negative inside) in radii of the object, y downwards."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float32
from torch import Tensor

from heatproof.data.scenes.vocabulary import SHAPES

Field = Float32[Tensor, "*grid"]


def circle(x: Field, y: Field) -> Field:
    """Return how far points lie outside a circle (negative inside)."""
    return torch.sqrt(x * x + y * y) - 0.92


def square(x: Field, y: Field) -> Field:
    """Return how far points lie outside a square (negative inside)."""
    return torch.maximum(x.abs(), y.abs()) - 0.8


def triangle(x: Field, y: Field) -> Field:
    """Return how far points lie outside a triangle (negative inside)."""
    return torch.maximum(y - 0.56, x.abs() * (math.sqrt(3) / 2) - y * 0.5 - 0.56)


def star(x: Field, y: Field) -> Field:
    """Return a star of five points. Folded into half a point, its edge is one straight line."""
    tip, notch, fold = 1.1, 0.48, math.pi / 5
    angle = torch.atan2(x, -y)
    angle = (angle - 2 * fold * torch.round(angle / (2 * fold))).abs()
    distance = torch.sqrt(x * x + y * y)
    along, across = distance * torch.cos(angle), distance * torch.sin(angle)
    edge_x, edge_y = notch * math.cos(fold) - tip, notch * math.sin(fold)
    length = math.hypot(edge_x, edge_y)
    return ((along - tip) * edge_y - across * edge_x) / length


def cross(x: Field, y: Field) -> Field:
    """Return how far points lie outside a cross (negative inside)."""
    ax, ay, half = x.abs(), y.abs(), 0.27
    return torch.minimum(torch.maximum(ax - 1.05, ay - half), torch.maximum(ax - half, ay - 1.05))


def ring(x: Field, y: Field) -> Field:
    """Return how far points lie outside a ring (negative inside)."""
    return (torch.sqrt(x * x + y * y) - 0.74).abs() - 0.24


def heart(x: Field, y: Field) -> Field:
    """Return two discs that touch, the wedge tangent to both, and what lies between."""
    ax, up = x.abs(), -y
    disc = torch.sqrt((ax - 0.5) ** 2 + (up - 0.45) ** 2) - 0.5
    # The wedge's tip is at -1.02; seen from there the tangent leans twice the disc's angle.
    lean = 2 * math.atan2(0.5, 1.47)
    side = ax * math.cos(lean) - (up + 1.02) * math.sin(lean)
    wedge = torch.maximum(side, up - 0.145)
    between = torch.maximum(ax - 0.5, (up - 0.2).abs() - 0.25)
    return torch.minimum(torch.minimum(disc, wedge), between)


def moon(x: Field, y: Field) -> Field:
    """Return how far points lie outside a moon (negative inside)."""
    return torch.maximum(torch.sqrt(x * x + y * y) - 1.0, 0.78 - torch.sqrt((x - 0.5) ** 2 + y * y))


DISTANCES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "ring": ring,
    "heart": heart,
    "moon": moon,
}
assert tuple(DISTANCES) == SHAPES

EXTENT = 1.14
"""No outline reaches further than this many radii from its centre (the square's corners do)."""
