"""ImageNet-Segmentation (Guillaumin et al., IJCV 2014): gtsegs_ijcv.mat, MATLAB's v7.3.

That format is HDF5, which h5py reads; it is imported where such a file is opened, and no part of
heatproof besides needs it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from heatproof.data.dataset import Instance, LabelledImages, visible
from heatproof.data.layouts.imagenet import called
from heatproof.data.layouts.reading import LayoutError, Sample
from heatproof.data.lazy import Lazy
from heatproof.data.left_out import LeftOut

FILE = "gtsegs_ijcv.mat"
HDF5 = b"\x89HDF\r\n\x1a\n"
FIELDS = ("img", "gt", "target")


def read(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Return one thing an image: the class that it is of, by the file's first annotation. `root`
    is the file, or the folder that it is in. Other classes are not annotated: the set is not
    complete."""
    path = root / FILE if root.is_dir() else root
    with opened(path) as file:
        segments = Segments(path, file)
        rows = sample.of(range(len(segments)))
        synsets = [segments.synset(row) for row in rows]
    if not rows:
        raise LayoutError(f"{path} holds no picture")
    kinds = sorted(set(synsets))
    labels = {row: kinds.index(synset) for row, synset in zip(rows, synsets, strict=True)}

    left_out = LeftOut()

    def photo(row: int) -> Image.Image:
        with opened(path) as file:
            return Segments(path, file).photo(row)

    def things(row: int) -> tuple[Instance, ...]:
        with opened(path) as file:
            found = [Instance(labels[row], Segments(path, file).mask(row))]
        return visible(found, left_out, f"image {row}")

    return LabelledImages(
        name="ImageNet-Segmentation",
        photos=Lazy(photo, rows),
        things=Lazy(things, rows),
        prompts=tuple(template.format(called(synset)) for synset in kinds),
        seed=sample.seed,
        complete=False,
        left_out=left_out,
    )


@dataclass(frozen=True)
class Segments:
    """The cells of an opened file: `file[name]` is an array of references, `file[reference]` what
    they refer to. MATLAB counts axes the other way round: (channel, col, row)."""

    path: Path
    file: Any

    def __len__(self) -> int:
        lengths = {field: len(self._cells(field)) for field in FIELDS}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{count} {field}" for field, count in lengths.items())
            raise LayoutError(f"{self.path} holds {said}; expected as many of each")
        return lengths["img"]

    def photo(self, row: int) -> Image.Image:
        """Return an image of the file."""
        pixels = np.asarray(self._cell("img", row))
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise LayoutError(
                f"{self.path}: picture {row} is {pixels.dtype} of shape {pixels.shape}, expected "
                "uint8 (3, col, row)"
            )
        return Image.fromarray(np.ascontiguousarray(pixels.T)).convert("RGB")

    def mask(self, row: int) -> Bool[np.ndarray, "row col"]:
        """Return the mask of an image."""
        inner = np.asarray(self._cell("gt", row))
        values = np.asarray(self.file[inner[0, 0]]).T
        if values.ndim != 2 or not np.isin(values, (0, 1)).all():
            raise LayoutError(
                f"{self.path}: annotation {row} of shape {values.shape} holds other values than 0 "
                "and 1"
            )
        size = np.asarray(self._cell("img", row)).T.shape[:2]
        if values.shape != size:
            raise LayoutError(
                f"{self.path}: annotation {row} has {values.shape[1]} x {values.shape[0]} pixels, "
                f"its picture {size[1]} x {size[0]}"
            )
        return values == 1

    def synset(self, row: int) -> str:
        """Return the class of an image; texts are stored as numbers of characters."""
        return "".join(chr(code) for code in np.asarray(self._cell("target", row)).ravel())

    def _cells(self, field: str) -> Any:
        try:
            return self.file[f"value/{field}"]
        except KeyError:
            raise LayoutError(
                f"{self.path} has no value.{field}, expected {FILE}'s img, gt and target"
            ) from None

    def _cell(self, field: str, row: int) -> Any:
        return self.file[self._cells(field)[row, 0]]


@contextmanager
def opened(path: Path) -> Generator[Any]:
    """Return the HDF5 file, opened for reading.

    Raises:
        LayoutError: it is no such file, or h5py is not installed.
    """
    _expect_hdf5(path)
    try:
        h5py: Any = import_module("h5py")
    except ImportError:
        raise LayoutError(
            f"{path} is HDF5 (MATLAB v7.3), which h5py reads, and h5py is not installed; "
            "try: pip install h5py"
        ) from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        text = " ".join(str(error).split())
        raise LayoutError(f"{path} is not readable as HDF5 ({text})") from None
    with file:
        yield file


def _expect_hdf5(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(512 + len(HDF5))
    except OSError as error:
        raise LayoutError(f"{path} cannot be read ({error.strerror}); expected {FILE}") from None
    # MATLAB puts 512 bytes of its own before HDF5's.
    if HDF5 not in (head[: len(HDF5)], head[512:]):
        came = "MATLAB's format before v7.3" if head[:6] == b"MATLAB" else "no MATLAB file"
        raise LayoutError(f"{path} is {came}, expected {FILE}: MATLAB v7.3; download it again")
