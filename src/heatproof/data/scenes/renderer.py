"""Draws scenes with exact masks, in batched torch operations, at any size and on any device."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from heatproof.data.scenes.chance import grain, uniforms
from heatproof.data.scenes.scene import MOST_OBJECTS, Scenes
from heatproof.data.scenes.shapes import DISTANCES
from heatproof.data.scenes.vocabulary import SHAPES

PIXELS = 64
"""The native side of an image; noise and stripes keep their size in the image at any other."""

# Red, green, blue of each colour word.
PALETTE = torch.tensor(
    [
        [0.87, 0.10, 0.10],
        [0.97, 0.55, 0.06],
        [0.96, 0.91, 0.14],
        [0.13, 0.64, 0.18],
        [0.15, 0.80, 0.86],
        [0.14, 0.24, 0.86],
        [0.48, 0.13, 0.68],
        [0.98, 0.50, 0.76],
    ]
)
STRIPE = 5.6 / 64
DOT = 6.4 / 64
SHADE = 0.4
NOISE = 0.06


def _axis(pixels: int, device: torch.device) -> Float32[Tensor, " pixels"]:
    return (torch.arange(pixels, dtype=torch.float32, device=device) + 0.5) / pixels


def _background(scenes: Scenes, pixels: int) -> Float32[Tensor, "scene 3 row col"]:
    s, device = scenes.surroundings, scenes.seeds.device
    axis = _axis(pixels, device)
    field = torch.zeros(len(scenes), pixels, pixels, device=device)
    angle, phase = s[:, 7] * math.pi, s[:, 8] * math.pi
    across = torch.cos(angle)[:, None] * axis
    down = torch.sin(angle)[:, None] * axis
    along = across[:, None, :] + down[:, :, None]
    # Family 0 is even: its field stays zero.
    for family in range(1, 5):
        at = (scenes.families == family).nonzero()[:, 0]
        if not len(at):
            continue
        rate = (2 * math.pi) * (4.0 + 2.5 * s[at, 9])[:, None, None]
        if family == 1:
            field[at] = along[at] * 1.2 - 0.3
        elif family == 2:
            field[at] = torch.sin(along[at] * rate + phase[at, None, None])
        elif family == 3:
            side = (-down[at])[:, None, :] * 1.0 + across[at][:, :, None]
            first = torch.sin(along[at] * rate + phase[at, None, None])
            second = torch.sin(side * rate + s[at, 10, None, None] * math.pi)
            # A product of two waves, sharpened: checks without aliasing.
            field[at] = torch.tanh(4 * first * second)
        else:
            # Clouds: few random values, interpolated smoothly.
            coarse = (uniforms(scenes.seeds[at], 4, 36).float() * 2 - 1).view(-1, 1, 6, 6)
            field[at] = interpolate(
                coarse, size=(pixels, pixels), mode="bicubic", align_corners=True
            )[:, 0]
    base = 0.5 + s[:, 0:1] + s[:, 1:4]
    return base[:, :, None, None] + s[:, 4:7, None, None] * field[:, None]


def _texture(
    kinds: Tensor, grains: Tensor, x: Tensor, y: Tensor, pixels: int
) -> Float32[Tensor, "object row col"]:
    """Return how much of the darker shade each pixel gets; `x`, `y` in fractions of the image."""
    shade = torch.zeros_like(x)
    for kind, period in ((1, STRIPE), (2, DOT)):
        at = (kinds == kind).nonzero()[:, 0]
        if not len(at):
            continue
        cos, sin = torch.cos(grains[at, 0]), torch.sin(grains[at, 0])
        u = x[at] * cos[:, None, None] + y[at] * sin[:, None, None]
        u = u / period + grains[at, 1, None, None]
        u = u - torch.floor(u) - 0.5
        if kind == 1:
            # Distance to the edge in periods: half of each period is dark.
            edge = 0.25 - u.abs()
        else:
            v = y[at] * cos[:, None, None] - x[at] * sin[:, None, None]
            v = v / period + grains[at, 2, None, None]
            v = v - torch.floor(v) - 0.5
            edge = 0.31 - torch.sqrt(u * u + v * v)
        # Scaled to pixels, so that an edge is one pixel wide at any size.
        shade[at] = (edge * (period * pixels) + 0.5).clamp(0, 1)
    return shade


def _coverage(
    shapes: Tensor, x: Tensor, y: Tensor, radii: Tensor, turns: Tensor, pixels: int
) -> Float32[Tensor, "object row col"]:
    """Return the share of each pixel that the outline covers (anti-aliased over one pixel)."""
    cos = (torch.cos(turns) / radii)[:, None, None]
    sin = (torch.sin(turns) / radii)[:, None, None]
    u, v = x * cos + y * sin, y * cos - x * sin
    cover = torch.empty_like(x)
    for index, name in enumerate(SHAPES):
        at = (shapes == index).nonzero()[:, 0]
        if len(at):
            cover[at] = DISTANCES[name](u[at], v[at])
    # A signed distance in pixels becomes a share of the pixel: anti-aliasing over one pixel.
    return (0.5 - cover * (radii * pixels)[:, None, None]).clamp(0, 1)


def render(
    scenes: Scenes, *, pixels: int = PIXELS, masks: bool = True
) -> tuple[UInt8[Tensor, "scene 3 row col"], Bool[Tensor, "scene object row col"]]:
    """Render images (0-255) and the visible pixels of each object (occluded ones left out).

    With `masks=False` the second has no rows of objects: (scene, 0, row, col).
    """
    device = scenes.seeds.device
    canvas = _background(scenes, pixels)
    owner = torch.full((len(scenes), pixels, pixels), -1, dtype=torch.int8, device=device)
    palette = PALETTE.to(device)
    # Objects are at most half as wide as the image: only that window is drawn.
    window = min(pixels, math.ceil(pixels / 2) + 2)
    steps = torch.arange(window, device=device)
    for k in range(MOST_OBJECTS):
        at = scenes.present[:, k].nonzero()[:, 0]
        if not len(at):
            continue
        attributes, centres, radii = (
            scenes.attributes[at, k],
            scenes.centres[at, k],
            scenes.radii[at, k],
        )
        # Kept inside the image; the coordinates below are of the centre all the same.
        corner = (centres * pixels - window / 2).round().long().clamp(0, pixels - window)
        cols, rows = corner[:, 0, None] + steps, corner[:, 1, None] + steps
        x = ((cols + 0.5) / pixels - centres[:, 0, None])[:, None, :].expand(-1, window, -1)
        y = ((rows + 0.5) / pixels - centres[:, 1, None])[:, :, None].expand(-1, -1, window)
        cover = _coverage(attributes[:, 3], x, y, radii, scenes.turns[at, k], pixels)
        shade = _texture(attributes[:, 1], scenes.grains[at, k], x, y, pixels)
        # A tint per object, so that a colour word is a range and not one value.
        colour = palette[attributes[:, 2]] + scenes.tints[at, k]
        paint = colour[:, None, None, :] * (1 - (1 - SHADE) * shade)[..., None]
        where = (at[:, None, None], slice(None), rows[:, :, None], cols[:, None, :])
        below = canvas[where]
        canvas[where] = below + (paint - below) * cover[..., None]
        if masks:
            spot = (at[:, None, None], rows[:, :, None], cols[:, None, :])
            # Later objects lie in front: a pixel belongs to the last one that covers half of it.
            owner[spot] = torch.where(cover >= 0.5, k, owner[spot])
    pictures = _lit(canvas, scenes, pixels)
    if not masks:
        return pictures, torch.zeros(len(scenes), 0, pixels, pixels, dtype=torch.bool)
    slots = torch.arange(MOST_OBJECTS, device=device, dtype=torch.int8)
    return pictures, owner[:, None] == slots[:, None, None]


def _lit(canvas: Tensor, scenes: Scenes, pixels: int) -> UInt8[Tensor, "scene 3 row col"]:
    """Let light fall off across the image, and add the noise of a sensor."""
    s, axis = scenes.surroundings, _axis(pixels, canvas.device) - 0.5
    light = (
        1
        + s[:, 15, None, None]
        + s[:, 13, None, None] * axis
        + s[:, 14, None, None] * axis[:, None]
    )
    canvas = canvas * light[:, None]
    amount = NOISE * s[:, 16].abs()
    # By the scene's seed: the same scene has the same noise wherever it is drawn.
    noise = grain(scenes.seeds, 5, pixels).float()
    canvas = canvas + noise * amount[:, None, None, None]
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8)
