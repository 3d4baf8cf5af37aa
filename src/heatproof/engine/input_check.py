"""The check named "input": do pixels and scores agree with the library's own processor and call?

The photo goes through the library's processor and the library's model once more (`models.library`).
The results are compared with the pixels and the untouched scores of the explanation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from heatproof import scores
from heatproof.certificate import Check, ParitySample, Verdict
from heatproof.engine.inputs import ImageInputs, Prompts
from heatproof.models.geometry import MOST_PIXELS, Preprocess
from heatproof.models.library import Inputs, Library, NoCall, NoLibrary
from heatproof.models.model import Model
from heatproof.tolerances import TOLERANCE

NAME = "input"
TENSOR = "the input was a preprocessed tensor: its photo and its processor are unknown"

# What a library's own call raises on inputs or settings that it does not take.
REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError)


@dataclass(frozen=True, kw_only=True)
class InputDifferences:
    """What the library's own processor and call gave, beside what an explanation reports.

    Attributes:
        unknown: the check itself, where nothing could be compared.
        labels: the prompts.
        differences: of each image how its pixels differ, and by how much; empty where they do not.
        limit: the largest gap of scores that is rounding.
        sample: of how many images the scores were compared; those of the others are NaN in
            `theirs`.
    """

    unknown: Check | None = None
    library: str = ""
    labels: tuple[str, ...] = ()
    reported: Float[np.ndarray, "image prompt"] = field(default_factory=lambda: np.zeros((0, 0)))
    theirs: Float[np.ndarray, "image prompt"] = field(default_factory=lambda: np.zeros((0, 0)))
    differences: tuple[str, ...] = ()
    limit: float = 0.0
    sample: ParitySample | None = None

    def select(self, images: Sequence[int], prompts: Sequence[int]) -> Check:
        """Return the check of some images and prompts: that of the worst of them."""
        if self.unknown is not None:
            return self.unknown
        rows = np.ix_(list(images), list(prompts))
        gaps = np.abs(self.reported[rows] - self.theirs[rows])
        known = gaps[~np.isnan(self.theirs[rows]).all(1)]
        differing = [n for n, image in enumerate(images) if self.differences[image]]
        gap = float(known.max()) if known.size else None
        text = f"{self.library} and the model's own call give the reported score"
        if not differing and self.sample is not None and len(known) < len(images):
            # Of the pixels all are compared; of the scores, those of a sample.
            text = f"{self.library} gives the same pixels; {text}, {self.sample.risk}"
            return Check(NAME, "holds", text, gap, self.limit, self.sample)
        if not differing and gap is not None and gap <= self.limit:
            return Check(NAME, "holds", f"{text}, to {gap:.2g}", gap, self.limit)
        # Where pixels differ, what the scores lose by it is the evidence.
        at = np.full(len(images), not differing)
        at[differing] = True
        number, prompt = divmod(int(np.where(at[:, None], gaps, -1).argmax()), gaps.shape[1])
        gap, image, prompt = float(gaps[number, prompt]), images[number], prompts[prompt]
        what = f"The pixels are those that {self.library} makes, but the model's own call differs"
        if differing:
            how = self.differences[image]
            what = f"These are not the pixels that {self.library} makes: {how}"
        mine, other = float(self.reported[image, prompt]), float(self.theirs[image, prompt])
        text = (
            f"{what}; the reported score with {self.labels[prompt]!r} is {mine:.4g} where the "
            f"library gives {other:.4g} (gap {gap:.2g})."
        )
        return Check(NAME, "violated", text, gap, self.limit)


@dataclass
class InputCheck:
    """Compare explanations with the library's own call.

    `given` are the prompts as the user handed them in, `prompts` the same as they were embedded.
    The library embeds them once, however many images follow.
    """

    given: Any
    prompts: Prompts
    score: scores.Score
    texts: Any = field(init=False, default=None)
    others: Any = field(init=False, default=None)

    def __call__(
        self,
        shown: ImageInputs,
        reported: Float[Tensor, "image prompt"],
        batch_size: int,
        sample: Int[Tensor, " compared"],
    ) -> InputDifferences:
        """Compare these images, whose untouched scores are `reported`.

        The pixels of all of them, and the scores of a `sample`, or of all where one of these
        differs.
        """
        if not shown.photos:
            return _unknown("not applicable", TENSOR)
        library = shown.model.library
        if isinstance(library, NoLibrary):
            return _unknown(library.verdict, library.reason)
        prepare = library_inputs(shown.model)
        assert prepare is not None
        prepared = shown.own or tuple(prepare(photo.image) for photo in shown.photos)
        own = [inputs for inputs in prepared if inputs is not None]
        if len(own) < len(prepared):
            text = f"{library.name} would enlarge a photo to over {MOST_PIXELS // 10**6} megapixels"
            return _unknown("not established", text)
        differences = _differences(library, shown, own)
        if any(differences):  # what the scores lose by it is the evidence
            sample = torch.arange(len(own))
        reported = reported.double().cpu()
        theirs = torch.full_like(reported, torch.nan)
        try:
            theirs[sample] = self._scores(library, shown, _some(own, sample), batch_size)
            limit = _limit(shown, theirs[sample])
            agree = bool(((theirs - reported)[sample].abs() <= limit).all())
            if not agree and len(sample) < len(own):
                theirs = self._scores(library, shown, own, batch_size)
                sample = torch.arange(len(own))
        except NoCall as reason:
            return _unknown("not established", str(reason))
        except REFUSALS as error:
            line = " ".join(str(error).split())[:160]
            text = f"the model's own call ended in {type(error).__name__}: {line}"
            return _unknown("not established", text)
        return InputDifferences(
            library=library.name,
            labels=self.prompts.labels,
            reported=reported.numpy(),
            theirs=theirs.numpy(),
            differences=differences,
            limit=_limit(shown, theirs[sample]),
            sample=ParitySample(len(sample), len(own)),
        )

    def _scores(
        self, library: Library, shown: ImageInputs, own: Sequence[Inputs], batch_size: int
    ) -> Float[Tensor, "image prompt"]:
        model, parts = shown.model, list[Tensor]()
        with torch.inference_mode(False), torch.no_grad():
            if self.texts is None:  # once, however many images follow
                self.texts = library.texts(self._prompts(library))
                if self.score.against:
                    self.others = library.texts(self._against(library))
            for start in range(0, len(own), batch_size):
                inputs = _join(own[start : start + batch_size], shown.pixels)
                matched = library.match(inputs, self.texts)
                others = matched[:, :0]
                if self.others is not None:
                    others = library.match(inputs, self.others)
                parts.append(self.score(_pairs(model, matched, others)))
        return torch.cat(parts).double().cpu()

    def _prompts(self, library: Library) -> Any:
        """Return texts where the library reads them itself, else ids; else embeddings as given."""
        tokens = self.prompts.tokens
        if tokens is None:
            return self.prompts.embeddings
        if isinstance(self.given, Tensor) or not library.reads_text:
            return tokens.ids
        return list(tokens.texts)

    def _against(self, library: Library) -> Any:
        if self.prompts.tokens is not None and library.reads_text:
            return list(self.score.against)
        raise NoCall(f"score {self.score.name} names a prompt that the library cannot read here")


def check_coordinates(
    shown: ImageInputs,
    embeddings: Float[Tensor, "image dim"],
    batch_size: int,
    sample: Int[Tensor, " compared"],
) -> InputDifferences:
    """Compare embeddings (or logits), whose coordinates are explained (`jacobian`)."""
    count = embeddings.shape[1]
    units = torch.eye(count, dtype=embeddings.dtype, device=shown.pixels.device)
    coordinates = Prompts(tuple(f"coordinate {n}" for n in range(count)), units)
    classifier = bool(shown.model.classes)
    reported = embeddings if classifier else torch.nn.functional.normalize(embeddings, dim=-1)
    score = scores.Logit("class-logit") if classifier else scores.Cosine()
    return InputCheck(units, coordinates, score)(shown, reported, batch_size, sample)


def library_inputs(model: Model) -> Callable[[Image.Image], Inputs | None] | None:
    """Return what makes the library's own inputs of a photo; None where no processor is known."""
    if isinstance(model.library, NoLibrary):
        return None
    return partial(_prepared, model.image.preprocess, model.library.prepare)


def _prepared(
    preprocess: Preprocess, prepare: Callable[[Image.Image], Inputs], photo: Image.Image
) -> Inputs | None:
    # A thin strip of an image, enlarged to the model's shortest side, would fill the memory.
    width, height = preprocess.resized(*photo.size)
    return None if width * height > MOST_PIXELS else prepare(photo)


def _pairs(model: Model, matched: Tensor, others: Tensor) -> scores.Pairs:
    """Cosines (or logits, of a classifier) as pairs; the scale is read off the model itself."""
    if model.classes:
        return scores.Pairs(None, matched, matched, others, own=True)
    logit, against = (_logit(model.module, cosine) for cosine in (matched, others))
    return scores.Pairs(matched, logit, logit, against, own=True)


def _logit(module: Any, cosine: Tensor) -> Tensor:
    scale, bias = getattr(module, "logit_scale", None), getattr(module, "logit_bias", None)
    logit = cosine if scale is None else cosine * scale.exp().to(cosine)
    return logit if bias is None else logit + bias.to(cosine)


def _join(own: Sequence[Inputs], like: Tensor) -> dict[str, Tensor]:
    """Return one batch of several, on the device and (floats) in the dtype of `like`."""
    joined = {name: torch.cat([inputs[name] for inputs in own]) for name in own[0]}
    return {
        name: tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
        for name, tensor in joined.items()
    }


# --- the verdict ------------------------------------------------------------------------------


def _unknown(verdict: Verdict, reason: str) -> InputDifferences:
    return InputDifferences(unknown=Check(NAME, verdict, reason))


def _some(own: Sequence[Inputs], sample: Int[Tensor, " compared"]) -> list[Inputs]:
    return [own[image] for image in sample.tolist()]


def _limit(shown: ImageInputs, theirs: Tensor) -> float:
    return TOLERANCE[shown.model.precision] * max(1.0, float(theirs.abs().max()))


def _differences(library: Library, shown: ImageInputs, own: Sequence[Inputs]) -> tuple[str, ...]:
    """Return of each image how its pixels differ from the library's; empty where they do not."""
    tolerance = TOLERANCE[shown.model.precision]
    return tuple(
        _pixel_difference(pixels, library.pixels(inputs).to(pixels), tolerance)
        for pixels, inputs in zip(shown.pixels.detach().cpu(), own, strict=True)
    )


def _pixel_difference(ours: Tensor, theirs: Tensor, tolerance: float) -> str:
    """Return in words how two images differ, empty where they do not."""
    gap = _pixel_gap(ours, theirs)
    # Relative to the largest pixel: normalised pixels are of the order of 1.
    if gap <= tolerance * max(1.0, float(theirs.abs().max())):
        return ""
    by = "" if gap == float("inf") else f" by up to {gap:.2g}"
    return f"{difference(ours, theirs)}; pixels differ{by}"


def _pixel_gap(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max())


def difference(ours: Float[Tensor, "3 height width"], theirs: Float[Tensor, "3 _ _"]) -> str:
    """Return in words how our pixels differ from theirs: in size, order, scale or place."""
    if ours.shape != theirs.shape:
        (height, width), (own_height, own_width) = ours.shape[1:], theirs.shape[1:]
        return f"{height} x {width} pixels instead of {own_height} x {own_width}"
    mirrored = {
        "left and right are swapped": theirs.flip(2),
        "top and bottom are swapped": theirs.flip(1),
        "red and blue are swapped": theirs.flip(0),
    }
    # Mirrored first: a mirrored image also looks like one with another crop.
    for name, pixels in mirrored.items():
        if _alike(ours, pixels):
            return name
    if _alike(ours, _rescaled(theirs, ours)):
        return "mean or standard deviation differs"
    return "resizing or cropping differs (method, filter or position)"


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    return _pixel_gap(ours, theirs) <= 1e-3 * max(1.0, float(theirs.abs().max()))


def _rescaled(pixels: Tensor, like: Tensor) -> Tensor:
    """The pixels, channel by channel, on the straight line that fits `like` best."""
    x, y = pixels.double().flatten(1), like.double().flatten(1)
    x0, y0 = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    slope = ((x - x0) * (y - y0)).sum(1, keepdim=True) / ((x - x0) ** 2).sum(1, keepdim=True).clamp(
        min=1e-12
    )
    return (y0 + slope * (x - x0)).view_as(pixels).to(pixels)
