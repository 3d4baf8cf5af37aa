"""RefCOCO, RefCOCO+ and RefCOCOg (Yu et al., ECCV 2016; Mao et al., CVPR 2016).

Expressions that refer to one of COCO's instances each, in the layout of the authors' `refer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heatproof.data.dataset import Instance, LabelledImages, visible
from heatproof.data.layouts.coco import WRONG, Annotation, instances, mask_in
from heatproof.data.layouts.pickled import plain
from heatproof.data.layouts.reading import LayoutError, Sample, first_folder, json_of, picture
from heatproof.data.lazy import Files, Lazy
from heatproof.images import frame_of

SPLIT = "val"
SPLITS_BY = ("unc", "umd", "google", "berkeley")
"""Who made the split; where several files lie beside each other, the first of these is read."""


def read(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Return one prompt an expression (verbatim: `template` is not used), one thing each for the
    instance that it refers to. Images of the split "val". An expression is true of more images
    than it was written for, so the set is not complete."""
    del template
    path = _refs_file(root)
    annotations = root / "instances.json"
    if not annotations.is_file():
        raise LayoutError(f"got no {annotations}, expected the instances that {path.name} names")
    found = instances(annotations)
    by_id: dict[int, Annotation] = {}
    for each in (each for of in found.annotations.values() for each in of):
        # References are numbers: none can point at such an annotation.
        if not str(each["id"]).isdigit():
            continue
        if int(each["id"]) in by_id:
            raise LayoutError(f"{annotations} has the annotation {each['id']} more than once")
        by_id[int(each["id"])] = each
    others = sorted(each.name for each in root.glob("refs(*).*"))
    if len(others) > 1:
        found.left_out.say(f"of {', '.join(others)} the file {path.name} is read")
    said = _expressions(path)
    # Checked before anything is read: an expression of another image would be a wrong truth.
    for image, references in said.items():
        for annotation, _ in references:
            if annotation not in by_id or int(by_id[annotation]["image_id"]) != image:
                raise LayoutError(
                    f"{path} speaks of annotation {annotation} in image {image}, which "
                    f"{annotations.name} lacks"
                )
    chosen = sample.of(sorted(said))
    folder = _pictures(root)
    paths = [picture(folder / found.pictures[n].name, path.name) for n in chosen]
    texts = [text for number in chosen for _, text in said[number]]
    labels = {text: label for label, text in enumerate(dict.fromkeys(texts))}

    def things(row: int) -> tuple[Instance, ...]:
        number, frame = chosen[row], frame_of(paths[row])
        # Several expressions speak of one instance: its mask is drawn once.
        masks = {
            annotation: mask_in(by_id[annotation], found.pictures[number], frame)
            for annotation in dict.fromkeys(each for each, _ in said[number])
        }
        return visible(
            (Instance(labels[text], masks[each]) for each, text in said[number]),
            found.left_out,
            found.pictures[number].name,
        )

    return LabelledImages(
        name=root.name,
        photos=Files(paths),
        things=Lazy(things, range(len(paths))),
        prompts=tuple(labels),
        seed=sample.seed,
        complete=False,
        left_out=found.left_out,
    )


def _refs_file(root: Path) -> Path:
    for maker in SPLITS_BY:
        for ending in ("json", "p"):
            if (path := root / f"refs({maker}).{ending}").is_file():
                return path
    raise LayoutError(
        f"got no refs(unc).p in {root}, expected it, refs(umd).p or refs(google).p (or the same "
        "as .json) beside instances.json"
    )


def _pictures(root: Path) -> Path:
    places = ("images/mscoco/images/train2014", "images/train2014", "train2014")
    return first_folder(
        [base / place for base in (root.parent, root) for place in places] + [root / "images"],
        "COCO's train2014",
    )


def _expressions(path: Path) -> dict[int, list[tuple[int, str]]]:
    """Return (annotation, expression) of each image of the split, each pair once."""
    # The pickle is read as data, never run.
    content: Any = plain(path) if path.suffix == ".p" else json_of(path)
    said: dict[int, list[tuple[int, str]]] = {}
    splits: set[str] = set()
    try:
        for each in content:
            splits.add(each["split"])
            if each["split"] == SPLIT:
                of = said.setdefault(int(each["image_id"]), [])
                for sentence in each["sentences"]:
                    pair = (int(each["ann_id"]), str(sentence["sent"]))
                    if pair not in of:
                        of.append(pair)
    except WRONG as error:
        raise LayoutError(
            f"{path} is not laid out as RefCOCO's ({type(error).__name__}: {error}); expected a "
            "list of references with image_id, ann_id, split and sentences"
        ) from None
    if not said:
        raise LayoutError(
            f"got no reference of the split {SPLIT!r} in {path}, only "
            f"{', '.join(sorted(splits)) or 'nothing'}"
        )
    return said
