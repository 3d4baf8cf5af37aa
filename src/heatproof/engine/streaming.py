"""`explain_each`: any number of images, a batch at a time, the next ones decoded meanwhile."""

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
from heatproof.engine import inputs
from heatproof.engine.input_check import library_inputs
from heatproof.engine.inputs import ImageInputs, ImageSize, ModelInput, PromptInput
from heatproof.engine.pipeline import ExplainOptions, ExplainRun, MethodInput, Progress
from heatproof.errors import ImageError, InputError
from heatproof.explanation import Explanation
from heatproof.images import Photo, open_image
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
    method: MethodInput = "attention-x-gradient",
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
    """Explain images batch by batch: what `explain` gives for them, in their order.

    A model that gives each image a grid of its own (NaFlex) gives one explanation for each run of
    images on one grid.

    Images are opened while those before them are explained, and at most two batches of them (two
    more per process) are in memory, however many there are: an explanation opens its photos' files
    again when it is asked for an overlay. Other arguments are those of `explain`.

    Args:
        image_size: (height, width) or "native".
        workers: processes that decode; 0 means one thread.
        faulty: called with the error of each image that cannot be read, which is then left out.
            Without it the error is raised once all images before that one are explained.

    Raises:
        InputError: at once, where anything but an image is wrong.
    """
    model = inputs.model_of(model)
    options = ExplainOptions(
        method=method, score=score, image_size=image_size, certify=certify, batch_size=batch_size,
        memory=memory, seed=seed, progress=progress,
    )  # fmt: skip
    if faulty is not None:
        checking.called("faulty", faulty, ImageError("an example"))
    if isinstance(pictures, Tensor):
        raise InputError("got a tensor, whose images are in memory already; pass it to explain")
    images = checking.images(pictures)
    if options.image_size == "keep":
        raise InputError(
            "got image size 'keep', which gives every aspect ratio a size of its own, and a batch "
            "has one; give (height, width), or explain the images one by one"
        )
    checking.whole("workers", workers, least=0)
    sized = inputs.at_size(model, inputs.wanted_size(model, (), options.image_size))
    run = ExplainRun(model, prompts, options)
    loader = ImageLoader(
        sized, images, run.batch_size, strict=faulty is None, compared=run.certifies
    )
    return _explanations(run, sized, loader, workers, faulty)


def _explanations(
    run: ExplainRun, sized: Model, loader: "ImageLoader", workers: int, faulty: Faulty | None
) -> Generator[Explanation]:
    pinned = sized.device.type == "cuda"
    batches = _by_processes(loader, workers, pinned) if workers else _by_thread(loader, pinned)
    with closing(batches):
        for number, batch in enumerate(batches, 1):
            if faulty is not None:
                for error in batch.errors:
                    faulty(error)
            for shown in batch.inputs(sized):
                yield run.explain(shown, None)
            if batch.errors and loader.strict:
                raise batch.errors[0]
            if run.options.progress is not None:
                run.options.progress(number, len(loader))


# --- loading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LoadedBatch:
    """Images that were read, and what is wrong with the others.

    `pixels` are stacked by runs of one size. `own` is what the library's processor makes of each.
    """

    pixels: tuple[Float[Tensor, "_image 3 _height _width"], ...]
    photos: tuple[Photo, ...]
    views: tuple[PhotoView, ...]
    own: tuple[Inputs | None, ...]
    errors: tuple[ImageError, ...]

    def pin_memory(self) -> "_LoadedBatch":
        return replace(self, pixels=tuple(stack.pin_memory() for stack in self.pixels))

    def inputs(self, model: Model) -> Iterator[ImageInputs]:
        start = 0
        for stack in self.pixels:
            part = slice(start, start + len(stack))
            start += len(stack)
            pixels = stack.to(model.device, non_blocking=stack.is_pinned())
            yield ImageInputs(model, pixels, self.photos[part], self.views[part], self.own[part])


class ImageLoader(Dataset[_LoadedBatch]):
    """Batches of images, read and preprocessed when they are asked for."""

    def __init__(
        self,
        model: Model,
        images: Sequence[Picture],
        size: int,
        *,
        strict: bool,
        compared: bool = True,
    ) -> None:
        """Prepare to load batches of `size`.

        strict: a batch ends at the first image that cannot be read.
        compared: the library's own processor makes its pixels too (for the input check).
        """
        self.images, self.size, self.strict = images, size, strict
        self.process, self.dtype = model.image.preprocess, model.dtype
        self.prepare = library_inputs(model) if compared else None

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __getitem__(self, number: int) -> _LoadedBatch:
        return self.load(number, threading.Event())

    def load(self, number: int, stopped: threading.Event) -> _LoadedBatch:
        """Load one batch; break off between two images when `stopped`."""
        loaded: list[tuple[Tensor, Photo, PhotoView, Inputs | None]] = []
        errors: list[ImageError] = []
        for image in self.images[number * self.size : (number + 1) * self.size]:
            if stopped.is_set() or (errors and self.strict):
                break
            try:
                loaded.append(self._read(image))
            except ImageError as error:
                errors.append(error)
        runs = groupby((pixels for pixels, *_ in loaded), key=lambda pixels: pixels.shape)
        return _LoadedBatch(
            tuple(torch.stack(list(run)) for _, run in runs),
            tuple(photo for _, photo, _, _ in loaded),
            tuple(view for _, _, view, _ in loaded),
            () if self.prepare is None else tuple(own for *_, own in loaded),
            tuple(errors),
        )

    def _read(self, image: Picture) -> tuple[Tensor, Photo, PhotoView, Inputs | None]:
        photo = open_image(image)
        pixels, view = self.process(photo.image), self.process.view(*photo.image.size)
        own = None if self.prepare is None else self.prepare(photo.image)
        if not isinstance(image, Image.Image):  # its file keeps it
            photo = replace(photo, held=None)
        return pixels.to(self.dtype), photo, view, own


def _by_processes(loader: ImageLoader, workers: int, pinned: bool) -> Generator[_LoadedBatch]:
    processes = DataLoader(
        loader,
        batch_size=None,
        num_workers=min(workers, len(loader)),
        pin_memory=pinned,
        generator=torch.Generator(),  # else the workers' seed is drawn from the user's
    )
    batches: Any = iter(processes)
    try:
        yield from batches
    finally:  # by hand: a traceback may hold the iterator, and that its processes
        batches._shutdown_workers()


def _by_thread(loader: ImageLoader, pinned: bool) -> Generator[_LoadedBatch]:
    """Read the next batch while this one is used."""
    # By one thread: `heatproof.images` decodes one file at a time.
    stopped = threading.Event()

    def load(number: int) -> _LoadedBatch | None:
        if number == len(loader):
            return None
        batch = loader.load(number, stopped)
        return batch.pin_memory() if pinned else batch

    with ThreadPoolExecutor(1, "heatproof-loading") as thread:
        try:
            coming = thread.submit(load, 0)
            for number in range(1, len(loader) + 1):
                batch, coming = coming.result(), thread.submit(load, number)
                assert batch is not None
                yield batch
        finally:
            stopped.set()
