"""Two methods compared on models, in float64: the largest difference, and where it is.

Methods run as they do for any user, through `explain` and `explain_words`; their values are taken
before the map is cut out in float32. All key tokens are compared, class token and padding too.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.engine.api import explain, explain_words
from heatproof.errors import HeatproofError
from heatproof.methods import Method, ReadPass, Side
from heatproof.methods.proxy import MethodProxy
from heatproof.models import load
from heatproof.models.model import Model
from heatproof.specimens import SPECIMENS, embeddings, ids_for, model_of, picture

Settings = dict[str, Any]
TOLERANCE = 1e-9
"""Relative to the maps' largest value. Two routes through the same float64 sums differ by 1e-13."""
ITEMS = 2


class ValueRecorder(MethodProxy):
    """A method that keeps what it last returned, in the dtype it was computed in."""

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self.values = torch.empty(0)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        """Return the method's values, and keep them."""
        # Before `explain` cuts out the patch grid and converts to float32.
        self.values = super().attribute(read).detach().cpu()
        return self.values.to(read.scores.device)


@dataclass(frozen=True)
class ModelCase:
    """A model with the inputs on which methods are compared.

    targets: prompts of the image side, class names or embeddings.
    words: prompts of the text side; None where the model reads no text.
    """

    name: str
    model: Model
    pixels: Float[Tensor, "image 3 height width"]
    targets: Any
    words: Any = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """Return the sides that can be compared."""
        return ("image",) if self.words is None else ("image", "text")

    def values(self, method: Method, side: Side) -> Float[Tensor, "item target token"]:
        """Return the value of each key token; items are images, or prompts on the text side."""
        recorder = ValueRecorder(method)
        if side == "image":
            explain(self.model, self.pixels, self.targets, method=recorder, certify=False)
        else:
            explain_words(self.model, self.pixels, self.words, method=recorder, certify=False)
        return recorder.values

    def single(self, side: Side, item: int, target: int) -> "ModelCase":
        """Return the same model with one image and one prompt."""
        image, prompt = (item, target) if side == "image" else (target, item)
        words = self.words if side == "image" else self.words[prompt : prompt + 1]
        targets = self.targets[prompt : prompt + 1] if side == "image" else self.targets[:1]
        return ModelCase(self.name, self.model, self.pixels[image, None], targets, words)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place where two maps differ most; `relative` is over the maps' largest value."""

    model: str
    side: Side
    item: int
    target: int
    token: int
    settings: tuple[str, str]
    absolute: float
    relative: float


@dataclass(kw_only=True)
class ModelRun:
    """Counts of one comparison. `by_model`: largest relative difference; `refused`: reason, count.

    `empty` counts the runs where both maps hold zeros or no numbers: they establish nothing.
    """

    settings: int
    compared: int = 0
    differing: int = 0
    empty: int = 0
    largest: Place | None = None
    smallest: "ModelDifference | None" = None
    by_model: dict[str, float] = field(default_factory=dict[str, float])
    refused: Counter[str] = field(default_factory=Counter[str])

    @property
    def equal(self) -> bool:
        """True where no run differs and some map is not empty."""
        return self.compared > self.empty and self.differing == 0


@dataclass(frozen=True)
class ModelDifference:
    """Two methods whose maps differ on a model, at a place."""

    case: ModelCase
    methods: tuple[Method, Method]
    place: Place
    tokens: int


def specimens() -> Iterator[ModelCase]:
    """Yield the tiny random model of every family."""
    for name in SPECIMENS:
        yield specimen(name)


def specimen(name: str) -> ModelCase:
    """Return the tiny random model of a family with noise images and random prompts."""
    model, spec = model_of(name), f"specimen:{name}"
    if model.classes:
        return ModelCase(spec, model, picture(model, ITEMS), list(model.classes[:ITEMS]))
    words = None if model.text is None else ids_for(name, ITEMS)
    return ModelCase(spec, model, picture(model, ITEMS), embeddings(model, ITEMS), words)


def loaded(spec: str, *, allow_download: bool = True) -> ModelCase:
    """Load a model in float64, with noise images and two prompts of its own tokenizer."""
    if spec.startswith("specimen:") and spec.removeprefix("specimen:") in SPECIMENS:
        return specimen(spec.removeprefix("specimen:"))
    model = load(spec, dtype="float64", allow_download=allow_download)
    pixels = picture(model, ITEMS)
    if model.text is None:
        return ModelCase(spec, model, pixels, list(model.classes[:ITEMS]))
    # Two texts of different length: padding and readout positions differ between them.
    words = model.text.tokenize(["a red circle", "two blue squares on white"]).ids
    return ModelCase(spec, model, pixels, embeddings(model, ITEMS), words)


def compare(
    pairs: Sequence[tuple[Method, Method]],
    cases: Iterator[ModelCase],
    progress: Callable[[str], None] | None = None,
) -> ModelRun:
    """Each pair of methods (one for each setting) on every case, image and text side.

    Where a method refuses a model, nothing is compared: that is counted, with who refused and why.
    """
    run = ModelRun(settings=len(pairs))
    for case in cases:
        if progress is not None:
            progress(case.name)
        for side in case.sides:
            for pair in pairs:
                _compare_one(run, case, side, pair)
    return run


def _compare_one(run: ModelRun, case: ModelCase, side: Side, pair: tuple[Method, Method]) -> None:
    maps: list[Tensor] = []
    refusals: dict[str, str] = {}
    for method in pair:
        try:
            maps.append(case.values(method, side))
        except HeatproofError as error:
            # A refusal is no disagreement: the pair is counted as not compared on this model.
            refusals[method.card.name] = str(error)
    if refusals:
        run.refused[f"{' and '.join(refusals)}: {next(iter(refusals.values()))}"] += 1
        return
    run.compared += 1
    run.empty += not any(values.nan_to_num(0, 0, 0).any() for values in maps)
    place = differ(case.name, side, pair, maps[0], maps[1])
    known = run.by_model.get(case.name, 0.0)
    run.by_model[case.name] = max(known, place.relative)
    if run.largest is None or place.relative > run.largest.relative:
        run.largest = place
    if place.relative > TOLERANCE:
        run.differing += 1
        # Of several counterexamples the one with the fewest tokens is the easiest to read.
        tokens = maps[0].shape[-1]
        if run.smallest is None or tokens < run.smallest.tokens:
            run.smallest = ModelDifference(case, pair, place, tokens)


def differ(
    name: str, side: Side, pair: tuple[Method, Method], left: Tensor, right: Tensor
) -> Place:
    """Return the place of the largest difference. Maps that hold no numbers differ by infinity."""
    settings = (text_of(pair[0]), text_of(pair[1]))
    # Methods that return maps of different shapes differ everywhere.
    if left.shape != right.shape:
        return Place(
            model=name,
            side=side,
            item=0,
            target=0,
            token=0,
            settings=settings,
            absolute=torch.inf,
            relative=torch.inf,
        )
    # NaN on one side alone is a difference, and an infinite one.
    gap = (left.double() - right.double()).abs().nan_to_num(torch.inf, torch.inf)
    # Equal infinities and two NaN agree.
    gap[(left == right) | (left.isnan() & right.isnan())] = 0
    item, target, token = (int(n) for n in torch.unravel_index(gap.argmax(), gap.shape))
    absolute = float(gap[item, target, token])
    scale = max(float(values.nan_to_num(0, 0, 0).abs().max()) for values in (left, right))
    relative = absolute / scale if absolute and scale else absolute
    return Place(
        model=name,
        side=side,
        item=item,
        target=target,
        token=token,
        settings=settings,
        absolute=absolute,
        relative=relative,
    )


def text_of(method: Method) -> str:
    """Return the method as the command line writes it: name:option=value,..."""
    given = ",".join(f"{key}={value}" for key, value in method.settings().items())
    return f"{method.card.name}:{given}" if given else method.card.name
