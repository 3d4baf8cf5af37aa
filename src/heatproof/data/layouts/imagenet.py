"""ImageNet's validation set, and what its classes are called. Paths and labels alone."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from heatproof.data.layouts.classes import SIGNED
from heatproof.data.layouts.reading import LayoutError, folders_in, lines_of, pictures_in

SYNSET = re.compile(r"n\d{8}")
NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "class_names.txt")


@dataclass(frozen=True)
class Labelled:
    """An image's path and the index of its class in the folder's list of classes."""

    path: Path
    label: int


@dataclass(frozen=True)
class ClassFolder:
    """Class folders in sorted order. `synsets` are the folders' names, `names` what each is called
    (None where no file says it)."""

    synsets: tuple[str, ...]
    names: tuple[str | None, ...]
    items: tuple[Labelled, ...]


def imagenet(folder: Path) -> ClassFolder:
    """Read ImageNet's validation set: FOLDER[/val]/SYNSET/*.JPEG, torchvision's ImageFolder.

    Class names come from `LOC_synset_mapping.txt` or `synset_words.txt` ("n01440764 tench, ..."),
    or `class_names.txt` (a line for each class, in the order of the folders), looked for in the
    folder and beside it. Folders that are not named by synsets are called what they are named.
    """
    root = folder / "val" if (folder / "val").is_dir() else folder
    classes = _folders(root, "ImageNet", "SYNSET/*.JPEG, one folder a class")
    given = _names((folder, root, root.parent), [c.name for c in classes])
    items = [
        Labelled(path, label) for label, each in enumerate(classes) for path in pictures_in(each)
    ]
    if not items:
        raise LayoutError(f"got no picture in the {len(classes)} class folders of {root}")
    names = tuple(given.get(c.name, None if SYNSET.fullmatch(c.name) else c.name) for c in classes)
    return ClassFolder(tuple(c.name for c in classes), names, tuple(items))


@cache
def _curated() -> dict[str, str]:
    """Read ImageNet's 1,000 names as OpenAI's prompts have them, in open_clip's copy."""
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo().label_names(), IMAGENET_CLASSNAMES, strict=True))


@cache
def _wordnet() -> dict[str, str]:
    """Return the first word of each of WordNet's 21,841 synsets that have images, in timm's
    copy."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")
    found = ((name, info.label_name_to_description(name)) for name in info.label_names())
    return {name: words.split(",")[0].strip() for name, words in found}


def called(synset: str) -> str:
    """Return what a synset is called in prompts: of the 1,000, as OpenAI calls it; else as
    WordNet."""
    name = _curated().get(synset) or _wordnet().get(synset)
    if not name:
        raise LayoutError(
            f"got the class {synset!r}, expected a synset of ImageNet such as n01440764"
        )
    return name


def class_names(classes: ClassFolder) -> tuple[str, ...]:
    """Return the folder's own names, ImageNet's where no file gives them."""
    curated = _curated()
    names: list[str] = []
    for synset, name in zip(classes.synsets, classes.names, strict=True):
        if name is None and synset not in curated:
            raise LayoutError(
                f"got the class folder {synset}, which is none of ImageNet's 1,000; "
                "name the classes in class_names.txt"
            )
        names.append(curated[synset] if name is None else name)
    return tuple(names)


# --- class folders ----------------------------------------------------------------------------


def _folders(root: Path, what: str, layout: str) -> list[Path]:
    if not root.is_dir():
        raise LayoutError(f"got {root}, which is no folder; expected {what}: {layout}")
    found = folders_in(root)
    if not found:
        raise LayoutError(f"got no class folder in {root}, expected {what}: {layout}")
    return found


def _names(places: Iterable[Path], synsets: list[str]) -> dict[str, str]:
    for place in places:
        for file in NAME_FILES:
            if (place / file).is_file():
                return _listed(place / file, synsets)
    return {}


def _listed(file: Path, synsets: list[str]) -> dict[str, str]:
    lines = lines_of(file)
    if all(SYNSET.match(line) for line in lines):
        pairs = (line.partition(" ") for line in lines)
        names = {synset: rest.split(",")[0].strip() for synset, _, rest in pairs}
        missing = [synset for synset in synsets if not names.get(synset)]
        if missing:
            raise LayoutError(f"{file} has no name for {missing[0]}, whose folder is there")
        return names
    if all(SIGNED.match(line) for line in lines):
        raise LayoutError(
            f"{file} begins lines with numbers ({lines[0][:40]!r}), expected names alone, in the "
            "order of the folders, or 'n01440764 tench'"
        )
    if len(lines) != len(synsets):
        raise LayoutError(f"{file} has {len(lines)} names for {len(synsets)} class folders")
    return dict(zip(synsets, lines, strict=True))
