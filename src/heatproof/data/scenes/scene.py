"""What a scene is: objects and surroundings, as numbers, before any pixel is drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from heatproof.data.scenes.chance import uniforms
from heatproof.data.scenes.shapes import EXTENT
from heatproof.data.scenes.vocabulary import (
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    TEXTURES,
)

MOST_OBJECTS = 4
Combinations = Literal["trained", "held-out", "all"]


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object. Lengths are fractions of the image's side; y points down."""

    size: str
    texture: str
    colour: str
    shape: str
    centre: tuple[float, float]
    radius: float
    box: tuple[float, float, float, float]
    """Bounding square (left, top, right, bottom) of the outline, before any occlusion."""

    @property
    def name(self) -> str:
        """Return what the object is called."""
        return f"{self.size} {self.texture} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """An image's content; the later of two overlapping objects lies on top."""

    seed: int
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """A batch of scenes as tensors, so that one call draws all of them on any device."""

    seeds: Int64[Tensor, " scene"]
    attributes: Int64[Tensor, "scene object 4"]
    """Indices of size, texture, colour, shape; -1 where there is no object."""
    centres: Float32[Tensor, "scene object 2"]
    radii: Float32[Tensor, "scene object"]
    turns: Float32[Tensor, "scene object"]
    tints: Float32[Tensor, "scene object 3"]
    grains: Float32[Tensor, "scene object 3"]
    """Texture angle, and its phase along both axes, in radians."""
    surroundings: Float32[Tensor, "scene 20"]
    families: Int64[Tensor, " scene"]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def present(self) -> Bool[Tensor, "scene object"]:
        """Return which objects are there (scene, object)."""
        return self.attributes[..., 0] >= 0

    def to(self, device: torch.device | str) -> Scenes:
        """Return the same scenes on another device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __getitem__(self, which: slice | Tensor) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def described(self) -> list[Scene]:
        """Return each scene as plain values."""
        return [self._scene(i) for i in range(len(self))]

    def _scene(self, index: int) -> Scene:
        found: list[SceneObject] = []
        for k in range(MOST_OBJECTS):
            size, texture, colour, shape = self.attributes[index, k].tolist()
            if size < 0:
                continue
            x, y = self.centres[index, k].tolist()
            radius = float(self.radii[index, k])
            reach = radius * EXTENT
            found.append(
                SceneObject(
                    size=SIZES[size],
                    texture=TEXTURES[texture],
                    colour=COLOURS[colour],
                    shape=SHAPES[shape],
                    centre=(x, y),
                    radius=radius,
                    box=(x - reach, y - reach, x + reach, y + reach),
                )
            )
        return Scene(seed=int(self.seeds[index]), objects=tuple(found))


def _allowed(combinations: Combinations) -> Bool[Tensor, "colour shape"]:
    allowed = torch.full((len(COLOURS), len(SHAPES)), combinations != "held-out")
    for shape, colour in HELD_OUT:
        allowed[colour, shape] = combinations != "trained"
    return allowed


def _pick(weights: Tensor, u: Tensor) -> Tensor:
    """Draw an index from each row of `weights` (row, choice), by the uniform numbers `u` (row)."""
    total = weights.cumsum(dim=-1)
    return (u[:, None] * total[:, -1:] >= total).sum(dim=-1).clamp(max=weights.shape[-1] - 1)


def _colours_and_shapes(
    u: Tensor, allowed: Bool[Tensor, "colour shape"], sharing: float
) -> tuple[Tensor, Tensor]:
    """Draw the first object freely; further ones share its colour or shape now and then."""
    table = allowed.double().to(u.device)
    n_colours, n_shapes = table.shape
    flat = table.flatten().expand(len(u), -1)
    colours, shapes = [], []
    for k in range(MOST_OBJECTS):
        pair = _pick(flat, u[:, k, 0])
        colour, shape = pair // n_shapes, pair % n_shapes
        if k > 0:
            # Unless only held-out combinations are drawn, a shared attribute leaves seven partners.
            same_colour = u[:, k, 1] < sharing / 2
            same_shape = (u[:, k, 1] >= sharing / 2) & (u[:, k, 1] < sharing)
            shape_given = _pick(table[colours[0]], u[:, k, 2])
            colour_given = _pick(table.T[shapes[0]], u[:, k, 2])
            shape = torch.where(same_colour, shape_given, torch.where(same_shape, shapes[0], shape))
            colour = torch.where(
                same_colour, colours[0], torch.where(same_shape, colour_given, colour)
            )
        colours.append(colour)
        shapes.append(shape)
    assert n_colours == len(COLOURS)
    return torch.stack(colours, 1), torch.stack(shapes, 1)


def _placed(u: Tensor, radii: Tensor, present: Tensor) -> Tensor:
    """Return centres (scene, object, 2): the first of the candidates that is clear of all before
    it."""
    n, candidates = u.shape[0], u.shape[2]
    reach = radii * EXTENT
    centres = torch.zeros(n, MOST_OBJECTS, 2, dtype=u.dtype, device=u.device)
    for k in range(MOST_OBJECTS):
        low = reach[:, k, None, None]
        tried = low + u[:, k] * (1 - 2 * low)
        clearance = torch.full((n, candidates), 1.0, dtype=u.dtype, device=u.device)
        for j in range(k):
            gap = (tried - centres[:, j, None]).norm(dim=-1) - (radii[:, k] + radii[:, j])[:, None]
            gap = torch.where(present[:, j, None], gap, torch.ones_like(gap))
            clearance = torch.minimum(clearance, gap)
        clear = clearance >= 0.02
        order = torch.arange(candidates, 0, -1, device=u.device)
        # Where nothing is clear the least crowded one is taken: some overlap, masks still exact.
        score = torch.where(clear, order + 1.0, clearance)
        best = score.argmax(dim=1)
        centres[:, k] = tried[torch.arange(n, device=u.device), best]
    return centres


def sample(
    seeds: Int64[Tensor, " scene"],
    *,
    difficulty: float = 1.0,
    combinations: Combinations = "trained",
    objects: int | None = None,
    sharing: float = 0.4,
) -> Scenes:
    """Draw scenes; each depends on its own seed alone (and on the options).

    difficulty: 0 is one large plain object in the middle of clean grey; 1 is everything.
    objects: how many; otherwise one to four, equally often at full difficulty.
    sharing: how often a further object shares the first one's colour or shape.
    """
    n = len(seeds)
    hard = min(max(difficulty, 0.0), 1.0)
    early = min(hard / 0.3, 1.0)
    late = min(max((hard - 0.3) / 0.7, 0.0), 1.0)
    u = uniforms(seeds, 1, 1 + 16 * MOST_OBJECTS)
    per = u[:, 1:].view(n, MOST_OBJECTS, 16)
    one = 1 - 0.75 * late
    weights = torch.tensor([one] + [(1 - one) / 3] * 3, dtype=u.dtype, device=u.device)
    count = _pick(weights.expand(n, -1), u[:, 0]) + 1
    if objects is not None:
        count = torch.full_like(count, objects)
    present = torch.arange(MOST_OBJECTS, device=u.device) < count[:, None]
    colours, shapes = _colours_and_shapes(per[:, :, :3], _allowed(combinations), sharing)
    # Four large objects do not fit; more objects are more often small.
    small = torch.where(count > 2, 0.65, 0.5)[:, None] * early
    sizes = (per[:, :, 3] >= small).long()
    thirds = torch.tensor([1 - early * 2 / 3, early / 3, early / 3], dtype=u.dtype, device=u.device)
    textures = _pick(thirds.expand(n * MOST_OBJECTS, -1), per[:, :, 4].flatten()).view(n, -1)
    radii = torch.where(sizes == 1, 12.5 + 2.0 * per[:, :, 5], 9.3 + 1.2 * per[:, :, 5]) / 64
    candidates = uniforms(seeds, 2, MOST_OBJECTS * 32 * 2).view(n, MOST_OBJECTS, 32, 2)
    centres = _placed(candidates, radii, present)
    spread = torch.where(count == 1, hard, 1.0)[:, None, None]
    centres = 0.5 + (centres - 0.5) * spread
    surroundings = uniforms(seeds, 3, 21)
    attributes = torch.stack([sizes, textures, colours, shapes], dim=-1)
    return Scenes(
        seeds=seeds,
        attributes=torch.where(present[..., None], attributes, -1),
        centres=centres.float(),
        radii=radii.float(),
        turns=((per[:, :, 6] * 2 - 1) * 0.15 * hard).float(),
        tints=((per[:, :, 7:10] * 2 - 1) * 0.07 * hard).float(),
        grains=(per[:, :, 10:13] * 6.283185307179586).float(),
        surroundings=(surroundings[:, :20] * 2 - 1).float() * _amplitudes(hard).to(u.device),
        families=(surroundings[:, 20] * 5).long(),
    )


def _amplitudes(hard: float) -> Float32[Tensor, "20"]:
    """Return the ranges (+-) of the surroundings' numbers: see `renderer._Surroundings`."""
    colour = [0.16] + [0.07] * 3
    contrast = [0.09] * 3
    pattern = [1.0] * 6
    light = [0.18, 0.18, 0.14]
    noise = [1.0] * 4
    scale = [hard] * 7 + [1.0] * 6 + [hard] * 3 + [hard] * 4
    return torch.tensor(colour + contrast + pattern + light + noise) * torch.tensor(scale)
