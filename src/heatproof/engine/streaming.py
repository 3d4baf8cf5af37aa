"""`explain_each`: any number of images, a batch at a time, the next ones decoded meanwhile."""

import signal
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
from heatproof.engine.pipeline import Certify, ExplainOptions, ExplainRun, MethodInput, Progress
from heatproof.errors import ImageError, InputError
from heatproof.explanation import Explanation
from heatproof.images import Photo, open_image
from heatproof.models.geometry import PhotoView
from heatproof.models.library import Inputs
from heatproof.models.model import Model

Picture = str | Path | Image.Image
Faulty = Callable[[ImageError], None]
Prepare = Callable[[Image.Image], Inputs | None]


@torch.inference_mode(False)
def explain_each(
    model: ModelInput,
    pictures: Picture | Iterable[Picture],
    prompts: PromptInput,
    *,
    method: MethodInput = None,
    score: str | scores.Score | None = None,
    image_size: ImageSize = None,
    certify: Certify = True,
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
    with closing(load_batches(loader, sized, workers)) as batches:
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


@dataclass(frozen=True, kw_only=True)
class LoadedBatch:
    """Images that were read, and what is wrong with the others.

    Attributes:
        number: the batch's number.
        pixels: stacked by runs of one size.
        places: where in the batch the images stood that were read.
        own: what the library's processor makes of each.
        errors: what is wrong with the others, which stood at `faulty`.
    """

    number: int
    pixels: tuple[Float[Tensor, "_image 3 _height _width"], ...]
    places: tuple[int, ...]
    photos: tuple[Photo, ...]
    views: tuple[PhotoView, ...]
    own: tuple[Inputs | None, ...]
    errors: tuple[ImageError, ...]
    faulty: tuple[int, ...]

    def pin_memory(self) -> "LoadedBatch":
        """Return the batch with pixels that a device can fetch by itself; torch calls this."""
        return replace(self, pixels=tuple(stack.pin_memory() for stack in self.pixels))

    def inputs(self, model: Model) -> Iterator[ImageInputs]:
        """Yield the images on the model's device, one run of one size at a time."""
        start = 0
        for stack in self.pixels:
            part = slice(start, start + len(stack))
            start += len(stack)
            pixels = stack.to(model.device, non_blocking=stack.is_pinned())
            yield ImageInputs(model, pixels, self.photos[part], self.views[part], self.own[part])


class ImageLoader(Dataset[LoadedBatch]):
    """Batches of images, read and preprocessed when they are asked for."""

    def __init__(
        self,
        model: Model,
        images: Sequence[Any],
        size: int,
        *,
        strict: bool,
        compared: int = 1,
        opener: Callable[[Any], Photo] | None = None,
    ) -> None:
        """Prepare to load batches of `size`.

        strict: a batch ends at the first image that cannot be read.
        compared: of every so many batches, the library's own processor makes its pixels too (for
            the input check); 0 means of none.
        opener: opens one of `images`, if they are no files and no images in memory.
        """
        self.images, self.size, self.strict, self.opener = images, size, strict, opener
        self.process, self.dtype = model.image.preprocess, model.dtype
        self.compared, self.prepare = compared, library_inputs(model) if compared else None

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __getitem__(self, number: int) -> LoadedBatch:
        return self.load(number, threading.Event())

    def load(self, number: int, stopped: threading.Event) -> LoadedBatch:
        """Load one batch; break off between two images when `stopped`."""
        loaded: list[tuple[Tensor, Photo, PhotoView, Inputs | None]] = []
        places, faulty = list[int](), list[int]()
        prepare = self.prepare if self.compared and number % self.compared == 0 else None
        errors: list[ImageError] = []
        chosen = self.images[number * self.size : (number + 1) * self.size]
        for place, image in enumerate(chosen):
            if stopped.is_set() or (errors and self.strict):
                break
            try:
                loaded.append(self._read(image, prepare))
                places.append(place)
            except ImageError as error:
                errors.append(error)
                faulty.append(place)
        runs = groupby((pixels for pixels, *_ in loaded), key=lambda pixels: pixels.shape)
        return LoadedBatch(
            number=number,
            pixels=tuple(torch.stack(list(run)) for _, run in runs),
            places=tuple(places),
            photos=tuple(photo for _, photo, _, _ in loaded),
            views=tuple(view for _, _, view, _ in loaded),
            own=() if prepare is None else tuple(own for *_, own in loaded),
            errors=tuple(errors),
            faulty=tuple(faulty),
        )

    def _read(
        self, image: Any, prepare: Prepare | None
    ) -> tuple[Tensor, Photo, PhotoView, Inputs | None]:
        photo = open_image(image) if self.opener is None else self.opener(image)
        pixels, view = self.process(photo.image), self.process.view(*photo.image.size)
        own = None if prepare is None else prepare(photo.image)
        if not isinstance(image, Image.Image):  # its file keeps it
            photo = replace(photo, held=None)
        return pixels.to(self.dtype), photo, view, own


def load_batches(
    loader: ImageLoader, model: Model, workers: int, numbers: Sequence[int] | None = None
) -> Generator[LoadedBatch]:
    """Yield batches, the next ones read meanwhile by `workers` processes, or by a thread if 0.

    numbers: which batches, in this order; by default all.
    """
    numbers = range(len(loader)) if numbers is None else numbers
    pinned = model.device.type == "cuda"
    if not workers:
        return _by_thread(loader, numbers, pinned)
    return _by_processes(loader, numbers, min(workers, len(numbers)), pinned)


def _ignore_interrupts(_: int) -> None:
    # Ctrl-C reaches the whole group of processes; the one that started these ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _by_processes(
    loader: ImageLoader, numbers: Sequence[int], workers: int, pinned: bool
) -> Generator[LoadedBatch]:
    processes = DataLoader(
        loader,
        sampler=numbers,
        batch_size=None,
        num_workers=workers,
        pin_memory=pinned,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # else the workers' seed is drawn from the user's
    )
    batches: Any = iter(processes)
    try:
        yield from batches
    finally:  # by hand: a traceback may hold the iterator, and that its processes
        batches._shutdown_workers()


def _by_thread(loader: ImageLoader, numbers: Sequence[int], pinned: bool) -> Generator[LoadedBatch]:
    """Read the next batch while this one is used."""
    # By one thread: `heatproof.images` decodes one file at a time.
    stopped = threading.Event()

    def load(place: int) -> LoadedBatch | None:
        if place == len(numbers):
            return None
        batch = loader.load(numbers[place], stopped)
        return batch.pin_memory() if pinned else batch

    with ThreadPoolExecutor(1, "heatproof-loading") as thread:
        try:
            coming = thread.submit(load, 0)
            for place in range(1, len(numbers) + 1):
                batch, coming = coming.result(), thread.submit(load, place)
                assert batch is not None
                yield batch
        finally:
            stopped.set()
