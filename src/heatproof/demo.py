"""`python -m heatproof.demo FOLDER`: explain a rendered scene with the embedded model.

One prompt is in the scene, one is not, and one is nonsense. The first scores highest. Beneath the
maps of `banzhaf` stand those of Grad-ECLIP as published, whose certificate fails, and
noise as a control.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import heatproof
from heatproof.certificate import worst
from heatproof.data.scenes import render, sample
from heatproof.errors import HeatproofError
from heatproof.explanation import Explanation
from heatproof.pages.folder import check_folder
from heatproof.plots.contact_sheet import Panel, sheet, sheet_row

SEED = (1 << 60) + 7  # a blue moon and a red circle, in a range that training never draws from
PIXELS = 512
SHOWN = "banzhaf"
"""The method that is shown: its maps have error bars."""
BESIDE = ("grad-eclip", "random")
"""Methods shown beneath it."""
PRESENT, ABSENT, NONSENSE = "a red circle", "a yellow heart", "xqvz kjwprt"


def main(folder: Path) -> int:
    """Write the demonstration into `folder`; return the exit code that `heatproof explain` has."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "scene.png"
    scene().save(image)
    model = heatproof.load("scenes")
    prompts = (PRESENT, ABSENT, NONSENSE)
    explanation = heatproof.explain(model, image, prompts, method=SHOWN)
    words = heatproof.explain_words(model, image, prompts, method=SHOWN)
    others = [heatproof.explain(model, image, prompts, method=name) for name in BESIDE]
    report = explanation.save(folder, words=words, controls=[control(explanation, others[-1])])
    compared = comparison([explanation, *others])
    compared.save(folder / "comparison.png")
    certificate = explanation.certificate
    for number, (prompt, place) in enumerate(
        zip(prompts, ("in the scene", "not in the scene", "nonsense"), strict=True)
    ):
        _say(f"  {float(explanation.scores[0, number]):+.4f}  {prompt}  ({place})")
    _say(f"certificate: {certificate.kind}. {certificate.sentence}")
    for light in certificate.lights:
        _say(f"  {light.name}: {light.state} · {light.evidence}")
    for prompt, row in zip(prompts, words.words[0], strict=True):
        _say(f"words: {' '.join(f'{word.text} {word.value:+.3f}' for word in row)}  ({prompt})")
    _say(f"beside other methods: {folder / 'comparison.png'}")
    _say(f"report: {report}")
    outcome = worst([certificate.holds, words.certificate.holds])
    return {True: 0, False: 1, None: 3}[outcome]


def scene() -> Image.Image:
    """Render the scene, larger than the model sees it."""
    pixels, _ = render(sample(torch.tensor([SEED])), pixels=PIXELS)
    return Image.fromarray(pixels[0].permute(1, 2, 0).numpy())


def comparison(explanations: Sequence[Explanation]) -> Image.Image:
    """Draw the scene and each method's maps, row below row, each with its own scale and lights."""
    rows = [explanation.for_image() for explanation in explanations]
    return sheet(rows[0].photo, rows[0].view, [sheet_row(maps) for maps in rows])


def control(explanation: Explanation, noise: Explanation) -> Panel:
    """Return noise as a panel, scaled to the root mean square of the first prompt's map."""
    # Noise has no unit of its own, and all panels share one colour scale.
    values = np.asarray(noise.maps[0, 0], np.float32)
    strength = float(explanation.maps[0, 0].square().mean().sqrt())
    values = values * np.float32(strength / np.sqrt(np.square(values).mean()))
    return Panel("random control", "noise, scaled to the first map", values)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
    except HeatproofError as error:
        sys.exit(f"heatproof: {error}")
