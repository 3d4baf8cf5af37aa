"""`explain_each`: any number of pictures, a batch at a time, the next ones decoded meanwhile."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from heatproof import checking, scores
from heatproof.engine import arguments, inputs
from heatproof.engine.arguments import ModelInput
from heatproof.engine.input_check import library_inputs
from heatproof.engine.inputs import ImageInputs, ImageSize, PromptInput
from heatproof.engine.pipeline import Progress, Question, default_batch_size, resolve_method
from heatproof.errors import ImageError, InputError
from heatproof.explanation import Explanation
from heatproof.images import Photo, open_image
from heatproof.methods.base import Method
from heatproof.models.geometry import PhotoView
from heatproof.models.library import Inputs
from heatproof.models.model import Model

Picture = str | Path | Image.Image
Faulty = Callable[[ImageError], None]


@torch.inference_mode(False)
def explain_each(
    model: ModelInput,
    pictures: Picture | Iterable[Picture],
    prompts: PromptInput,
    *,
    method: str | Method | Callable[[Any, str], Any] = "attention-x-gradient",
    score: str | scores.Score | None = None,
    image_size: ImageSize = None,
    certify: bool = True,
    batch_size: int | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    workers: int = 0,
    faulty: Faulty | None = None,
    progress: Progress | None = None,
) -> Iterator[Explanation]:
    """Explain pictures batch by batch: what `explain` gives for them, in their order.

    A model that gives each image a grid of its own (NaFlex) gives an explanation for each run of
    images on one grid.

    Pictures are opened while those before them are explained, and no more than two batches of them
    (two more for each process) are held, however many there are: an explanation opens its
    photographs' files again when it is asked for an overlay. Other arguments are those of
    `explain`.

    Args:
        image_size: (height, width) or "native".
        workers: processes that decode; with 0 it is one thread, whose batches wait for each other.
        faulty: is told of each picture that cannot be read, which is then left out. Without it the
            error is raised once all pictures before that one are explained.

    Raises:
        InputError: at once, where anything but a picture is at fault.
    """
    model = arguments.model_of(model)
    image_size = arguments.check_options(
        certify=certify, batch_size=batch_size, memory=memory, seed=seed, progress=progress,
        image_size=image_size,
    )  # fmt: skip
    prompts = arguments.prompts_of(model, prompts)
    if faulty is not None:
        checking.called("faulty", faulty, ImageError("an example"))
    if isinstance(pictures, Tensor):
        raise InputError("got a tensor, whose pictures are in memory already; pass it to explain")
    pictures = checking.images(pictures)
    if image_size == "keep":
        raise InputError(
            "got image size 'keep', which gives every aspect ratio a size of its own, and a batch "
            "has one; give (height, width), or explain the pictures one by one"
        )
    checking.whole("workers", workers, least=0)
    size = default_batch_size(model, batch_size)
    chosen, target = resolve_method(model, method, score, "image")
    sized = inputs.at_size(model, inputs.wanted_size(model, (), image_size))
    question = Question(model, prompts, chosen, target, image_size, certify, size, memory, seed)
    return _answers(question, sized, pictures, workers, faulty, progress)


def _answers(
    question: Question,
    model: Model,
    pictures: Sequence[Picture],
    workers: int,
    faulty: Faulty | None,
    progress: Progress | None,
) -> Generator[Explanation]:
    size, strict = question.batch_size, faulty is None
    files = Files(model, pictures, size, strict, question.certify)
    pinned = model.device.type == "cuda"
    lots = _by_processes(files, workers, pinned) if workers else _by_thread(files, pinned)
    with closing(lots):
        for number, lot in enumerate(lots):
            if faulty is not None:
                for error in lot.errors:
                    faulty(error)
            for shown in lot.pictures(model):
                yield question.answered(shown, None)
            if lot.errors and strict:
                raise lot.errors[0]
            if progress is not None:
                progress(number + 1, len(files))


# --- loading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lot:
    """ImageInputs that were read, and what is wrong with the others.

    `pixels` are stacked by runs of one size. `own` is what the library's processor makes of each.
    """

    pixels: tuple[Float[Tensor, "_image 3 _height _width"], ...]
    photos: tuple[Photo, ...]
    views: tuple[PhotoView, ...]
    own: tuple[Inputs | None, ...]
    errors: tuple[ImageError, ...]

    def pin_memory(self) -> "_Lot":
        return replace(self, pixels=tuple(stack.pin_memory() for stack in self.pixels))

    def pictures(self, model: Model) -> Iterator[ImageInputs]:
        start = 0
        for stack in self.pixels:
            part = slice(start, start + len(stack))
            start += len(stack)
            pixels = stack.to(model.device, non_blocking=stack.is_pinned())
            yield ImageInputs(model, pixels, self.photos[part], self.views[part], self.own[part])


class Files(Dataset[_Lot]):
    """Lots of pictures, read and preprocessed when asked for; `strict` ones end at an error."""

    def __init__(
        self,
        model: Model,
        pictures: Sequence[Picture],
        size: int,
        strict: bool,
        compared: bool = True,
    ) -> None:
        """With `compared`, the library's own processor makes its pixels too (the input check)."""
        self.pictures, self.size, self.strict = pictures, size, strict
        self.process, self.dtype = model.image.preprocess, model.dtype
        self.prepare = library_inputs(model) if compared else None

    def __len__(self) -> int:
        return -(-len(self.pictures) // self.size)

    def __getitem__(self, number: int) -> _Lot:
        return self.load(number, threading.Event())

    def load(self, number: int, stopped: threading.Event) -> _Lot:
        """Breaks off between two pictures when `stopped`."""
        made: list[tuple[Tensor, Photo, PhotoView, Inputs | None]] = []
        errors: list[ImageError] = []
        for picture in self.pictures[number * self.size : (number + 1) * self.size]:
            if stopped.is_set() or (errors and self.strict):
                break
            try:
                made.append(self._read(picture))
            except ImageError as error:
                errors.append(error)
        runs = groupby((pixels for pixels, *_ in made), key=lambda pixels: pixels.shape)
        return _Lot(
            tuple(torch.stack(list(run)) for _, run in runs),
            tuple(photo for _, photo, _, _ in made),
            tuple(view for _, _, view, _ in made),
            () if self.prepare is None else tuple(own for *_, own in made),
            tuple(errors),
        )

    def _read(self, picture: Picture) -> tuple[Tensor, Photo, PhotoView, Inputs | None]:
        photo = open_image(picture)
        pixels, view = self.process(photo.image), self.process.view(*photo.image.size)
        own = None if self.prepare is None else self.prepare(photo.image)
        if not isinstance(picture, Image.Image):  # its file keeps it
            photo = replace(photo, held=None)
        return pixels.to(self.dtype), photo, view, own


def _by_processes(files: Files, workers: int, pinned: bool) -> Generator[_Lot]:
    loader = DataLoader(
        files,
        batch_size=None,
        num_workers=min(workers, len(files)),
        pin_memory=pinned,
        generator=torch.Generator(),  # else the workers' seed is drawn from the user's
    )
    lots: Any = iter(loader)
    try:
        yield from lots
    finally:  # by hand: a traceback may hold the iterator, and that its processes
        lots._shutdown_workers()


def _by_thread(files: Files, pinned: bool) -> Generator[_Lot]:
    """The next lot is read while this one is used: by one thread, for `images` decodes one file at
    a time."""
    stopped = threading.Event()

    def load(number: int) -> _Lot | None:
        if number == len(files):
            return None
        lot = files.load(number, stopped)
        return lot.pin_memory() if pinned else lot

    with ThreadPoolExecutor(1, "heatproof-loading") as thread:
        try:
            coming = thread.submit(load, 0)
            for number in range(1, len(files) + 1):
                lot, coming = coming.result(), thread.submit(load, number)
                assert lot is not None
                yield lot
        finally:
            stopped.set()
