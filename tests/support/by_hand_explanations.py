"""Explanations made by hand, for what shows them: no model, known values."""

import re
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw

from heatproof.certificate import Certificate, Check, Light
from heatproof.explanation import Explanation, WordExplanation
from heatproof.image_maps import Record, Word
from heatproof.images import Photo
from heatproof.models.geometry import PhotoView

HOLDS = Certificate(
    checks=(
        Check("parity", "holds", "the explained pass gave the model's own score", 1e-7, 1e-5),
        Check("native factors", "holds", "attention weights; gradient of the score"),
        Check("readout", "holds", "only the class token feeds the embedding"),
        Check("completeness", "not applicable", "the method promises no sum"),
    ),
    native=("attention weights", "gradient of the score"),
    substituted=(),
    null_prompts={"empty": 0.41, "gibberish": 0.62, "unrelated": 0.83},
    environment={"torch": "2.15.0", "weights": "ab" * 32, "device": "cpu"},
    common_share=0.12,
    follows=Light("follows the prompt", "yes", "changes by 0.41 to 0.83 under null prompts"),
    weights="loaded",
)
FAILS = Certificate(
    checks=(
        Check(
            "parity",
            "violated",
            "This map explains another model: with one attention head in place of twelve, the "
            "score was 0.1715 where the model's own is 0.3503.",
            0.1788,
            1e-5,
        ),
        *HOLDS.checks[1:],
    ),
    native=("gradient of the score",),
    substituted=("attention of one head over the full width", "min-max normalised cosines"),
    null_prompts={"empty": 0.01, "gibberish": 0.02, "unrelated": 0.03},
    warnings=("the map hardly changes with the prompt",),
    environment=HOLDS.environment,
    replaced="forward pass",
    common_share=0.9,
    follows=Light("follows the prompt", "limited", "90% is common to all"),
    weights="loaded",
)


def scene(width: int = 512, height: int = 384) -> Image.Image:
    """A drawn street: sky, ground, a red disc, a blue square, a yellow triangle."""
    image = Image.new("RGB", (width, height), "#9cc3e6")
    draw = ImageDraw.Draw(image)
    unit = min(width, height) / 8
    draw.rectangle((0, height * 0.6, width, height), fill="#6f8f5a")
    draw.ellipse((unit, 2 * unit, 3 * unit, 4 * unit), fill="#d33a2c")
    draw.rectangle(
        (width / 2, height / 2, width / 2 + 2 * unit, height / 2 + 2 * unit), fill="#2f4fa3"
    )
    corner = width - unit
    draw.polygon(
        [(corner, 6 * unit), (corner - 2 * unit, 6 * unit), (corner - unit, 4 * unit)],
        fill="#f0c52e",
    )
    return image


def explanation(
    maps: torch.Tensor,
    prompts: Sequence[str],
    photo: Image.Image | None = None,
    views: PhotoView | None = None,
    certificate: Certificate = HOLDS,
    scores: Sequence[float] | None = None,
    method: str = "attention-x-gradient",
    notices: tuple[str, ...] = (),
    explained: Sequence[float] | None = None,
) -> Explanation:
    """`maps` is (prompt, row, col) of one picture, or (image, prompt, row, col) of several."""
    maps = maps[None] if maps.dim() == 3 else maps
    image = photo or scene()
    side = min(image.size)
    view = views or PhotoView(
        width=image.width,
        height=image.height,
        left=(image.width - side) / 2,
        top=(image.height - side) / 2,
        right=(image.width + side) / 2,
        bottom=(image.height + side) / 2,
    )
    row = torch.tensor(scores if scores is not None else [0.25] * len(prompts))
    record = Record(
        model="scenes",
        method=method,
        settings={},
        score="cosine",
        prompts=tuple(prompts),
        seed=0,
        notices=notices,
    )
    return Explanation(
        maps=maps.float(),
        scores=row.repeat(len(maps), 1),
        explained_scores=(row if explained is None else torch.tensor(explained)).repeat(
            len(maps), 1
        ),
        certificate=certificate,
        record=record,
        photos=tuple(Photo(image, f"photo-{n}.jpg") for n in range(len(maps))),
        views=(view,) * len(maps),
    )


def bump(rows: int, cols: int, row: float, col: float, size: float = 1.5) -> torch.Tensor:
    """A blob of height 1 on the grid."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(cols) + 0.5, indexing="ij")
    return torch.exp(-((y - row) ** 2 + (x - col) ** 2) / (2 * size**2))


def worded(
    prompts: Sequence[str], values: Sequence[Sequence[float]], certificate: Certificate = HOLDS
) -> WordExplanation:
    """Each prompt's words and marks, in order, with these values; words without one were cut."""
    words = [
        tuple(
            Word(match.group(), match.start(), match.end(), value)
            for match, value in zip(re.finditer(r"\w+|[^\w\s]", prompt), row, strict=False)
        )
        for prompt, row in zip(prompts, values, strict=True)
    ]
    maps = [torch.tensor([word.value for word in each]) for each in words]
    tokens = [tuple(word.text for word in each) for each in words]
    record = Record(
        model="scenes",
        method="attention-x-gradient",
        settings={},
        score="cosine",
        prompts=tuple(prompts),
        seed=0,
    )
    scores = torch.full((1, len(prompts)), 0.25)
    return WordExplanation(
        maps=[maps],
        words=[words],
        tokens=tokens,
        scores=scores,
        explained_scores=scores,
        certificate=certificate,
        record=record,
    )
