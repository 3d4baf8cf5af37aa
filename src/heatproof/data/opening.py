"""One door to every data set: its kind, its path, and what its layout must be.

Nothing heavy is imported here: a layout's file is, when a set of its kind is opened.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from heatproof import checking
from heatproof.errors import InputError, UnknownName

if TYPE_CHECKING:
    from heatproof.data.dataset import LabelledImages

SCENES = 300
"""How many scenes are drawn where nobody says how many."""
ATTRIBUTES = ("shape", "colour")
OWN = ("instances.json", "masks")
"""What a folder of the user's own images may have, beside those that name classes alone."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of data set, to be opened as `name:PATH`.

    about: a paragraph on its official layout and what is made of it.
    tree: what must be where, in one line.
    signs: globs, all of which find something in a folder of this kind; "|" stands between those
        of which one must.
    module: the file of `heatproof.data.layouts` that reads it.
    """

    name: str
    title: str
    about: str
    tree: str
    signs: tuple[str, ...]
    module: str
    template: str = "a photo of a {}."

    @property
    def spec(self) -> str:
        """Return how a set of this kind is named."""
        return f"{self.name}:PATH"


_KINDS = (
    Kind(
        name="folder",
        title="A folder of images with masks",
        about=(
            "Your own images. One of: `instances.json` in COCO's format, with the images in "
            "`images/` or beside it (what `heatproof scenes render` writes; masks are polygons, "
            "run lengths, boxes, or files named by `mask_file`); `images/a.jpg` with "
            "`masks/CLASS/a.png`, one object per mask (further ones of the same class: `a.1.png`,"
            " `a-2.png`); `images/a.jpg` with `masks/a.png` whose pixels are the numbers of "
            "classes in `classes.txt`; or `CLASS/a.jpg` beside its mask `CLASS/a.png`. Masks may "
            "be of 1, 8 or 16 bits, floats, or have a palette: see [What a mask "
            "means](#what-a-mask-means). Images without a mask are left out and counted. A path "
            "without a kind is opened so."
        ),
        tree=(
            "instances.json with images/, images/ with masks/, or CLASS/a.jpg beside CLASS/a.png"
        ),
        signs=(),
        module="folder",
        template="a {}",
    ),
    Kind(
        name="imagenet-s",
        title="ImageNet-S (validation)",
        about=(
            "PATH is `ImageNetS919`, `ImageNetS300` or `ImageNetS50`: `validation/SYNSET/*.JPEG`,"
            " and masks of the same names in `validation-segmentation/SYNSET/*.png` (a pixel's "
            "class is its red plus 256 times its green; 0 is the background, 1000 is unjudged). "
            "For a part of the classes put `ImageNetS_categories_im919.txt` (im300, im50) of the "
            "authors' repository into PATH: classes are numbered by its synsets in sorted order. "
            "Names are those of OpenAI's prompts, or of `class_names.txt` or "
            "`LOC_synset_mapping.txt` in PATH."
        ),
        tree="validation/SYNSET/*.JPEG and validation-segmentation/SYNSET/*.png",
        signs=("validation", "validation-segmentation"),
        module="imagenet_s",
    ),
    Kind(
        name="imagenet-segmentation",
        title="ImageNet-Segmentation",
        about=(
            "PATH is `gtsegs_ijcv.mat` or the folder that it is in: 4,276 images of 445 classes, "
            "with one binary mask each. The file is HDF5 (MATLAB v7.3): reading it needs `h5py` "
            "(`pip install h5py`), which heatproof does not install. Names are those of OpenAI's "
            "prompts, WordNet's where the class is none of the 1,000."
        ),
        tree="gtsegs_ijcv.mat",
        signs=("gtsegs_ijcv.mat",),
        module="imagenet_segmentation",
    ),
    Kind(
        name="voc",
        title="PASCAL VOC 2012 segmentation (val)",
        about=(
            "PATH is `VOCdevkit/VOC2012`: `ImageSets/Segmentation/val.txt`, `JPEGImages/ID.jpg`, "
            "and palette masks `SegmentationClass/ID.png` (1 to 20; 255 is void, unjudged) and "
            "`SegmentationObject/ID.png`. One object each of SegmentationObject."
        ),
        tree=(
            "ImageSets/Segmentation/val.txt, JPEGImages/ID.jpg, SegmentationClass/ID.png and "
            "SegmentationObject/ID.png"
        ),
        signs=("ImageSets/Segmentation", "JPEGImages", "SegmentationClass", "SegmentationObject"),
        module="voc",
    ),
    Kind(
        name="coco",
        title="COCO instances (2017 or 2014)",
        about=(
            "PATH holds `annotations/instances_val2017.json` and the images in `val2017/` (the "
            "validation set is read where it is there, else the only instances file with the "
            "folder of its name). Polygons and run lengths, plain or compressed. A crowd "
            "(`iscrowd`) is no object: its pixels are not judged for its category, and images "
            "that show a category as a crowd alone are left out and counted. The same holds for "
            "`instances.json` in a folder of your own."
        ),
        tree="annotations/instances_val2017.json and val2017/*.jpg",
        signs=("annotations/instances_*.json",),
        module="coco",
    ),
    Kind(
        name="refcoco",
        title="RefCOCO, RefCOCO+, RefCOCOg (val)",
        about=(
            "PATH is the set's folder as the authors' `refer` has it: `refs(unc).p` "
            "(`refs(umd).p`, `refs(google).p`, or the same content as `.json`) beside "
            "`instances.json`, with COCO's `train2014` images in "
            "`../images/mscoco/images/train2014/`, `../train2014/`, `train2014/` or `images/`. "
            "The pickle is never unpickled: a reader of plain lists, dictionaries, texts and "
            "numbers takes it apart, and refuses anything else. A prompt is an expression, "
            "verbatim, and names the one object that it was written for."
        ),
        tree=("refs(unc).p and instances.json, with ../images/mscoco/images/train2014/*.jpg"),
        signs=("refs(*).*", "instances.json"),
        module="refcoco",
        template="{}",
    ),
    Kind(
        name="openimages",
        title="Open Images V7 points (validation)",
        about=(
            "PATH holds the validation set's CSV of point labels (any name; its first line names "
            "ImageId, X, Y, Label, EstimatedYesNo), the class descriptions "
            "(`oidv7-class-descriptions.csv`), both also in `annotations/`, and the images as "
            "`validation/ID.jpg` (or `images/`, `data/`). A mask holds the points that are on the"
            " class, and only pixels with a yes or a no are judged."
        ),
        tree="a CSV of points, oidv7-class-descriptions.csv and validation/ID.jpg",
        signs=("*class-descriptions*.csv|annotations/*class-descriptions*.csv",),
        module="openimages",
    ),
    Kind(
        name="flickr30k",
        title="Flickr30k Entities",
        about=(
            "PATH is the unpacked `flickr30k_entities`: `Sentences/ID.txt`, `Annotations/ID.xml`,"
            " with the images, which are distributed separately, as `flickr30k-images/ID.jpg` in "
            "it or beside it. The images of `test.txt` if it is there, else all. A prompt is a "
            "phrase, verbatim; its object is all boxes of its entity, the mask their area."
        ),
        tree="Sentences/ID.txt, Annotations/ID.xml and flickr30k-images/ID.jpg",
        signs=("Sentences", "Annotations"),
        module="flickr30k",
        template="{}",
    ),
)


def kinds() -> Mapping[str, Kind]:
    """Return every kind of data set that is read from a path, by name."""
    return {kind.name: kind for kind in _KINDS}


def open(
    spec: str | Path, *, most: int | None = None, seed: int = 0, template: str | None = None
) -> LabelledImages:
    """Open images with known objects, and the prompts that name them.

    spec: `scenes` (asked for by shape) or `scenes:colour`, which are drawn; a folder's path; or
        `KIND:PATH`, the kinds being those of `kinds()`.
    most: how many images, drawn by `seed` without replacement and left in the set's own order.
        None: all of them (300 scenes).
    template: what makes a prompt of a class's name; None: the kind's own. Phrases stay verbatim.

    Images and masks are opened when they are indexed. What can be known before is checked here.

    Raises:
        InputError: no such kind or path, or files that are not laid out as the kind's; one line.
    """
    if most is not None:
        checking.whole("most", most, least=1)
    checking.seed(seed)
    if template is not None:
        _expect_template(checking.text("template", template))
    found = _meant(spec)
    if isinstance(found, str):
        return _scenes(found, most or SCENES, seed)
    return _opened(*found, most, seed, template)


def check(spec: str | Path) -> None:
    """Raise what `open` would raise for a name, a path or its layout; opens no file of a set."""
    found = _meant(spec)
    if not isinstance(found, str):
        _expect(*found)


def _meant(spec: object) -> str | tuple[Kind, Path]:
    """Return the attribute of drawn scenes, or a kind and its path."""
    checking.path("data", spec)
    text = str(spec)
    name, colon, rest = text.partition(":")
    if isinstance(spec, str) and name == "scenes" and (not colon or rest in ATTRIBUTES):
        return rest or "shape"
    # A path may hold a colon: what exists is a path, whatever it looks like.
    if isinstance(spec, Path) or not colon or checking.exists(Path(text)):
        return kinds()["folder"], _path(text)
    if name == "scenes":
        raise UnknownName("attribute of scenes", rest, ATTRIBUTES)
    if name not in kinds():
        raise UnknownName("kind of data", name, ("scenes", *kinds()))
    if not rest:
        raise InputError(f"got {text!r} and no path, expected {name}:PATH; {_needs(kinds()[name])}")
    return kinds()[name], Path(rest).expanduser()


def _expect_template(template: str) -> None:
    try:
        # Formatted once here: a stray brace is refused now and not at the first prompt.
        fits = template.count("{}") == 1 and "name" in template.format("name")
    except (LookupError, ValueError):
        fits = False
    if not fits:
        raise InputError(
            f"got the template {template[:80]!r}, expected one {{}} where the class's name goes, "
            "such as 'a photo of a {}.'"
        )


def _scenes(attribute: str, count: int, seed: int) -> LabelledImages:
    scenes = import_module("heatproof.data.scenes.single_attribute")  # it needs torch
    return scenes.asked(count, "colour" if attribute == "colour" else "shape", seed=seed)


def _path(text: str) -> Path:
    path = Path(text).expanduser()
    if not checking.exists(path) and "/" not in text:
        known = ("scenes", *kinds())
        if text in known:
            raise InputError(f"got {text!r} and no path, expected {text}:PATH")
        if near := difflib.get_close_matches(text, known, n=1, cutoff=0.6):
            raise InputError(
                f"got {text!r}, which is neither a folder nor a kind of data; did you mean "
                f"{near[0]}?"
            )
    return path


def _opened(
    kind: Kind, path: Path, most: int | None, seed: int, template: str | None
) -> LabelledImages:
    # By name: a layout is imported only when its kind is opened.
    layout = import_module(f"heatproof.data.layouts.{kind.module}")
    reading = import_module("heatproof.data.layouts.reading")
    try:
        _expect(kind, path)
        sample = reading.Sample(most, seed)
        return layout.read(path, sample, kind.template if template is None else template)
    except reading.NoLayout as error:
        raise InputError(f"{error}{_elsewhere(kind, path)}") from None
    except OSError as error:
        where = error.filename or path
        raise InputError(
            f"{where} cannot be read ({error.strerror}), expected {_needs(kind)}"
        ) from None


# --- a wrong path, and the right one nearby ---------------------------------------------------


def _needs(kind: Kind) -> str:
    return f"{kind.title}: {kind.tree}"


def _expect(kind: Kind, path: Path) -> None:
    """Check that the path is there and has what the kind's folders have."""
    if not checking.exists(path):
        raise InputError(f"got no folder {path}, expected {_needs(kind)}; {_alike(path)}")
    # One data set is a single file, whose name is its sign.
    if path.is_file() and path.name not in kind.signs:
        raise InputError(f"got the file {path}, expected a folder with {_needs(kind)}")
    if path.is_dir() and (missing := _missing(kind, path)):
        wanted = f"got no {missing.split('|')[0]} in {path}, expected {_needs(kind)}"
        raise InputError(wanted + (_elsewhere(kind, path) or _out_of_place(kind, path)))


def _elsewhere(kind: Kind, path: Path) -> str:
    """Return where such a set lies nearby, or what other kind lies here: the end of an error's
    line."""
    for near in _around(path):
        # A kind without signs fits any folder, so it must show its own files.
        if not _missing(kind, near) and (kind.signs or any((near / one).exists() for one in OWN)):
            return f"; did you mean {kind.name}:{near}?"
    for other in _KINDS:
        if other.signs and not _missing(other, path):
            return f"; it looks like {other.title}: try {other.name}:{path}"
    return ""


def _out_of_place(kind: Kind, path: Path) -> str:
    """Name annotations in another place and the command that moves them: ends an error's line."""
    if kind.name != "coco":
        return ""
    if found := sorted(path.glob("instances_*.json")):
        folder, file = (shlex.quote(str(each)) for each in (path / "annotations", found[-1]))
        return f"; {found[-1]} lies beside it: try mkdir -p {folder} && cp {file} {folder}"
    return import_module("heatproof.data.layouts.folder").in_cocos_format(path)


def _missing(kind: Kind, path: Path) -> str:
    """Return the first sign that the folder lacks, or nothing."""
    for sign in kind.signs:
        if not any(any(path.glob(glob)) for glob in sign.split("|")):
            return sign
    return ""


def _around(path: Path) -> Iterator[Path]:
    """Return the folders one level below, then those above, nearest first."""
    # Resolved, since "." has no parents by name.
    here = path.resolve()
    yield from sorted(each for each in here.iterdir() if each.is_dir())
    yield from list(here.parents)[:2]


def _alike(path: Path) -> str:
    """Name a folder beside the missing one whose name is like its name."""
    if not path.parent.is_dir():
        return f"there is no {path.parent} either: check the path"
    names = [each.name for each in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"did you mean {path.parent / near[0]}?" if near else "check the path"
