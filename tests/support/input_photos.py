"""Photos for the input check, and the check itself."""

import numpy as np
from PIL import Image

from heatproof.certificate import Check
from heatproof.explanation import Explanation


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Colours that are smooth, with an edge: mirrored, shifted or cropped it is another picture."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    chance = np.random.default_rng(seed)
    planes = [
        127 + 90 * np.sin(6 * a * x + 5 * b * y) + 30 * (x > c) for a, b, c in chance.random((3, 3))
    ]
    return Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8))


def input_of(explanation: Explanation) -> Check:
    return next(check for check in explanation.certificate.checks if check.name == "input")
