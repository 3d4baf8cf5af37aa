"""A chunk of pictures, each with the one prompt that it is asked, and what all methods share."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Int64
from PIL import Image
from torch import Tensor

from heatproof import scores as scoring
from heatproof.data.dataset import Instance, LabelledImages
from heatproof.engine import inputs
from heatproof.engine.forward import attention_layers_of
from heatproof.errors import InputError
from heatproof.evaluation.presence import beaten, drawn, present, seen
from heatproof.metrics import localisation
from heatproof.models import Model
from heatproof.reading import AttentionLayer
from heatproof.reading.token_dropping import seen_in


@dataclass(frozen=True, eq=False)
class Bench:
    """A model and data; `texts` are the embeddings of all prompts that the data know."""

    model: Model
    data: LabelledImages
    texts: Float[Tensor, "prompt dim"]
    seed: int = 0
    batch_size: int = 32

    @classmethod
    def of(
        cls, model: Model, data: LabelledImages, *, seed: int = 0, batch_size: int = 32
    ) -> "Bench":
        """Raises `InputError` where no picture could be asked anything."""
        if not len(data):
            raise InputError(f"{data.name} holds no picture, expected at least one")
        if len(data.prompts) < 2:
            raise InputError(
                f"{data.name} has {len(data.prompts)} prompt, expected at least two: whether the "
                "model is right is told by the prompts that name nothing in a picture"
            )
        texts = inputs.prompts(model, data.prompts).embeddings
        return cls(model, data, texts, seed, batch_size)

    @property
    def grid(self) -> tuple[int, int]:
        process = self.model.image.preprocess
        layout = self.model.image.layout(process.height, process.width)
        return layout.rows, layout.cols

    @cached_property
    def sites(self) -> tuple[AttentionLayer, ...]:
        """The attention calls of the image tower, first to last."""
        process, encode = self.model.image.preprocess, self.model.image.encode
        blank = torch.zeros(1, 3, process.height, process.width)
        blank = blank.to(self.model.device, self.model.dtype)
        return attention_layers_of(self.model, "image", lambda: encode(blank))

    @cached_property
    def levels(self) -> Float[Tensor, "2 3"]:
        """What the model's preprocessing makes of black and of white."""
        process = self.model.image.preprocess
        made = [
            process(Image.new("RGB", (process.width, process.height), (level,) * 3))
            for level in (0, 255)
        ]
        row, col = process.height // 2, process.width // 2
        return torch.stack([each[:, row, col] for each in made]).to(self.model.device)

    def asked(self, start: int, stop: int) -> "Asked":
        """ImageInputs `start` to `stop`; the prompts are drawn for each picture by itself."""
        photos = [self.data.photos[n] for n in range(start, stop)]
        things = [self.data.things[n] for n in range(start, stop)]
        objects, labels = seen(self.model, photos, things, self.grid)
        there = present(labels, len(self.data.prompts))
        chance = torch.stack([self._chance(n) for n in range(start, stop)])
        named = drawn(chance, there)
        there = self._not_absent(start, stop, there)
        if self.knows_absent:
            named[there.all(1)] = -1  # nothing is absent: right and wrong cannot be told apart
        rows = (named >= 0).nonzero()[:, 0]
        process = self.model.image.preprocess
        kept = [photos[row] for row in rows.tolist()]
        shape = (0, 3, process.height, process.width)
        pixels = torch.stack([process(each) for each in kept]) if kept else torch.zeros(shape)
        return Asked(
            self,
            rows + start,
            tuple(kept),
            pixels.to(self.model.device, self.model.dtype),
            objects[rows],
            labels[rows],
            there[rows],
            named[rows],
            tuple(tuple(things[row]) for row in rows.tolist()),
        )

    @property
    def knows_absent(self) -> bool:
        """Whether the data say of any prompt that it names nothing in a picture."""
        return self.data.complete or self.data.absent is not None

    def _not_absent(
        self, start: int, stop: int, there: Bool[Tensor, "image prompt"]
    ) -> Bool[Tensor, "image prompt"]:
        """All but the prompts that are known to name nothing: where the data are not complete and
        list these, the others are unknown."""
        if self.data.complete or self.data.absent is None:
            return there
        found = torch.ones_like(there)
        for row, picture in enumerate(range(start, stop)):
            found[row, list(self.data.absent[picture])] = False
        return found | there

    def _chance(self, picture: int) -> Float[Tensor, " prompt"]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + picture)
        return torch.rand(len(self.data.prompts), generator=generator)

    # --- the untouched model ------------------------------------------------------------------

    def encode(self, pixels: Float[Tensor, "variant 3 _ _"]) -> Float[Tensor, "variant dim"]:
        """Embeddings, `batch_size` pictures at a time, as the scores take them."""
        with torch.inference_mode():
            parts = [
                self.model.image.encode(part.to(self.model.device, self.model.dtype))
                for part in pixels.split(self.batch_size)
            ]
            return torch.cat(parts).to(self.texts.dtype)

    def paired(
        self, images: Float[Tensor, "variant dim"], prompt: Int64[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        """Each embedding's score with its own prompt: the cosine, or a classifier's logit."""
        texts = self.texts[prompt.to(self.texts.device)]
        if not self.model.classes:
            images, texts = (
                torch.nn.functional.normalize(each, dim=-1) for each in (images, texts)
            )
        return (images * texts).sum(-1)

    def compare(self, images: Float[Tensor, "variant dim"]) -> Float[Tensor, "variant prompt"]:
        """Scores with every prompt."""
        score = scoring.create(scoring.default(self.model))
        return score(scoring.pairs(self.model, images, self.texts))


@dataclass(frozen=True, eq=False)
class Asked:
    """ImageInputs that are asked something; `picture` counts them in the data.

    objects, labels: as `questions.seen`; there: the prompts that may name an object of the picture
    (all that are not known to be absent); named: the prompt that is asked.
    """

    bench: Bench
    picture: Int64[Tensor, " item"]
    photos: tuple[Image.Image, ...]
    pixels: Float[Tensor, "item 3 _ _"]
    objects: Float[Tensor, "item object row col"]
    labels: Int64[Tensor, "item object"]
    there: Bool[Tensor, "item prompt"]
    named: Int64[Tensor, " item"]
    things: tuple[tuple[Instance, ...], ...]

    def __len__(self) -> int:
        return len(self.picture)

    @property
    def names(self) -> list[str]:
        """What the pictures are called: their numbers in the data, which keep their order."""
        return [str(n) for n in self.picture.tolist()]

    @property
    def prompts(self) -> list[str]:
        return [self.bench.data.prompts[n] for n in self.named.tolist()]

    @cached_property
    def right(self) -> Bool[Tensor, " item"]:
        """Whether the prompt that is asked outscores every absent one."""
        scores = self.bench.compare(self.bench.encode(self.pixels)).cpu()
        return beaten(scores, self.named, self.there) == 1

    @property
    def answers(self) -> list[bool | None]:
        """`right`, or None where the data do not say which prompts are absent."""
        known = self.bench.knows_absent
        return [bool(each) if known else None for each in self.right.tolist()]

    @property
    def points(self) -> Int[Tensor, "item height width"] | None:
        """Judged pixels of the named objects in the model's view: 1 in, -1 out, 0 not judged."""
        if not any(thing.judged is not None for found in self.things for thing in found):
            return None
        process = self.bench.model.image.preprocess
        made = torch.zeros(len(self), process.height, process.width, dtype=torch.int64)
        for item, (photo, found) in enumerate(zip(self.photos, self.things, strict=True)):
            view = process.view(*photo.size)
            for thing in found:
                if thing.label == int(self.named[item]) and thing.judged is not None:
                    for pixels, sign in ((thing.judged & ~thing.mask, -1), (thing.mask, 1)):
                        row, col = torch.as_tensor(pixels).nonzero().double().unbind(1)
                        y = (row + 0.5 - view.top) / (view.bottom - view.top) * process.height
                        x = (col + 0.5 - view.left) / (view.right - view.left) * process.width
                        y, x = y.floor().long(), x.floor().long()
                        seen = (y >= 0) & (y < process.height) & (x >= 0) & (x < process.width)
                        made[item, y[seen], x[seen]] = sign
        return made

    @property
    def mine(self) -> Bool[Tensor, "item object"]:
        """Which objects the prompt names."""
        return self.labels == self.named[:, None]

    @property
    def mask(self) -> Float[Tensor, "item row col"]:
        """The share of each patch that the named objects cover."""
        return (self.objects * self.mine[:, :, None, None]).sum(1).clamp(max=1)

    @property
    def chance_of_choice(self) -> Float[Tensor, " item"]:
        return localisation.chance_of_choice(self.objects, self.mine.unsqueeze(1))[:, 0]

    # --- what metrics ask of the untouched model ----------------------------------------------

    def score(
        self, pixels: Float[Tensor, "variant 3 _ _"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        """See `metrics.base.Score`."""
        return self.bench.paired(self.bench.encode(pixels), self.named[item.cpu()]).cpu()

    def hit(
        self, pixels: Float[Tensor, "variant 3 _ _"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        """1 where the item's prompt outscores all that name nothing in its picture."""
        scores, rows = self.bench.compare(self.bench.encode(pixels)).cpu(), item.cpu()
        return (beaten(scores, self.named[rows], self.there[rows]) == 1).float()

    @property
    def removable(self) -> bool:
        """Whether masked keys take a token away: as many keys in every call, one readout row."""
        sites = self.bench.sites
        return self.bench.model.image.readout.row is not None and len({s.keys for s in sites}) == 1

    def tokens(
        self, keep: Bool[Tensor, "variant cell"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        """See `metrics.base.TokenScore`."""
        bench = self.bench
        with torch.inference_mode():
            images = seen_in(bench.model, bench.sites, self.pixels, item, keep, bench.batch_size)
            return bench.paired(images.to(bench.texts.dtype), self.named[item.cpu()]).cpu()
