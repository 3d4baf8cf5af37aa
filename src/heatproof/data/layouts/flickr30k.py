"""Flickr30k Entities (Plummer et al., ICCV 2015): phrases of captions, and boxes of what they name.

The annotations come apart from the images, which lie beside them in `flickr30k-images/`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heatproof.data import masks
from heatproof.data.dataset import Instance, LabelledImages, visible
from heatproof.data.layouts.reading import (
    LayoutError,
    Sample,
    first_folder,
    lines_of,
    picture,
    text_of,
)
from heatproof.data.lazy import Files, Lazy
from heatproof.data.left_out import LeftOut
from heatproof.images import Frame, frame_of

PHRASE = re.compile(r"\[/EN#(\d+)(?:/[^\s/\]]+)+ ([^\[\]]+)\]")
"""[/EN#283585/people A young girl]: the entity, its kinds, the phrase."""
NOT_VISIBLE = "0"
PLACES = ("flickr30k-images", "flickr30k_images", "images")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Boxed:
    """An image's size and boxes (left, top, right, bottom; the last two outside)
    of each entity."""

    width: int
    height: int
    boxes: dict[str, list[Box]]


def read(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Return one prompt a phrase (verbatim: `template` is not used), one thing each for all boxes
    of its entity. Phrases without a box are left out (scenes, things not to be seen). The images
    of test.txt where it is there, else all. A phrase is true of more images than it was written
    for, so the set is not complete."""
    del template
    left_out = LeftOut()
    folder = first_folder(
        [base / place for base in (root, root.parent) for place in PLACES], "Flickr30k's pictures"
    )
    listed, names, paths = root / "test.txt", list[str](), list[Path]()
    if listed.is_file():
        every = lines_of(listed)
    else:
        every = sorted(each.stem for each in (root / "Annotations").glob("*.xml"))
        left_out.say(f"no test.txt: all {len(every)} images with an annotation are read")
    boxed: list[Boxed] = []
    phrases: list[list[tuple[str, str]]] = []
    for name in sample.of(every):
        one = _boxed(root / "Annotations" / f"{name}.xml")
        said = _phrases(root / "Sentences" / f"{name}.txt")
        found = [(entity, text) for entity, text in said if entity in one.boxes]
        # A phrase without a box names what cannot be located, such as a mood.
        unboxed = [f"{name}: {text}" for entity, text in said if entity not in one.boxes]
        left_out.add("phrases left out, without a box", unboxed)
        if not found:
            left_out.add("images left out, without a phrase that has a box", [name])
        else:
            names.append(name)
            boxed.append(one)
            phrases.append(found)
            paths.append(picture(folder / f"{name}.jpg", f"Annotations/{name}.xml"))
    if not names:
        raise LayoutError(f"got no phrase with a box in {root}, expected Annotations/*.xml's")
    labels = {
        text: label
        for label, text in enumerate(dict.fromkeys(text for of in phrases for _, text in of))
    }

    def things(row: int) -> tuple[Instance, ...]:
        frame, one = frame_of(paths[row]), boxed[row]
        what = f"the annotation {names[row]}.xml"
        return visible(
            (
                Instance(labels[text], _mask(one, entity, frame, what))
                for entity, text in phrases[row]
            ),
            left_out,
            names[row],
        )

    return LabelledImages(
        name="Flickr30k Entities",
        photos=Files(paths),
        things=Lazy(things, range(len(paths))),
        prompts=tuple(labels),
        seed=sample.seed,
        complete=False,
        left_out=left_out,
    )


def _mask(one: Boxed, entity: str, frame: Frame, what: str) -> np.ndarray:
    return masks.fitted(masks.boxed(one.boxes[entity], (one.height, one.width)), frame, what)


def _phrases(path: Path) -> list[tuple[str, str]]:
    """Return (entity, phrase) pairs, each once, of what can be seen."""
    if not path.is_file():
        raise LayoutError(f"got no {path}, expected the five captions of that picture")
    found = PHRASE.findall(text_of(path))
    pairs = ((entity, " ".join(text.split())) for entity, text in found)
    return list(dict.fromkeys(pair for pair in pairs if pair[0] != NOT_VISIBLE))


def _boxed(path: Path) -> Boxed:
    if not path.is_file():
        raise LayoutError(f"got no {path}, expected an annotation a picture")
    tree = _xml(path)
    boxes: dict[str, list[Box]] = {}
    try:
        width, height = _number(tree, "size/width"), _number(tree, "size/height")
        for thing in tree.iter("object"):
            box = thing.find("bndbox")
            # Objects without a box are scenes or things that are not visible.
            if box is None:
                continue
            left, top, right, bottom = (_number(box, k) for k in ("xmin", "ymin", "xmax", "ymax"))
            if not (left <= right and top <= bottom):
                raise ValueError(f"a box from {left}, {top} to {right}, {bottom}")
            for name in thing.findall("name"):
                # Their first pixel is 1, and xmax and ymax are in the box.
                one = (left - 1, top - 1, right, bottom)
                boxes.setdefault(str(name.text).strip(), []).append(one)
    except ValueError as error:
        raise LayoutError(
            f"{path} is not laid out as Flickr30k Entities' ({error}); expected size and objects "
            "with name and bndbox"
        ) from None
    return Boxed(width, height, boxes)


def _number(tree: ET.Element, place: str) -> int:
    text = tree.findtext(place)
    if text is None:
        raise ValueError(f"no {place}")
    # Whole numbers with a decimal point are read, too.
    return int(float(text))


def _xml(path: Path) -> ET.Element:
    """Return the file's root.

    A document type is refused: it is where XML may name other files and where a small file may grow
    without end; the official annotations have none.
    """
    text = text_of(path)
    if "<!DOCTYPE" in text:
        raise LayoutError(f"{path} has a document type (<!DOCTYPE), expected plain elements")
    try:
        return ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise LayoutError(f"{path} is not readable as XML ({error})") from None
