"""Ask a model about images whose objects are known, and tell whether it is right.

Each image gets one question: where is the object that the `named` prompt names? The model is right
where that prompt outscores every prompt that is known to be false of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Int64
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import Instance, LabelledImages
from heatproof.engine import inputs
from heatproof.errors import InputError
from heatproof.evaluation.encoding import encode_images, score_pairs
from heatproof.evaluation.presence import (
    draw_prompt,
    of_label,
    prompts_present,
    share_outscored,
    union,
    visible_objects,
)
from heatproof.models import Model
from heatproof.reading import AttentionLayer
from heatproof.reading.token_dropping import encode_visible


class EvaluationTask:
    """A model and labelled images; images are opened, encoded and scored when they are asked for.

    Args:
        seed: decides which prompt each image is asked about.
        batch_size: how many images are encoded together.

    Raises:
        InputError: the data hold no image.
    """

    def __init__(
        self, model: Model, data: LabelledImages, *, seed: int = 0, batch_size: int = 64
    ) -> None:
        if not len(data):
            raise InputError(f"{data.name} holds no image, expected at least one")
        self.model, self.data, self.seed, self.batch_size = model, data, seed, batch_size
        process = model.image.preprocess
        layout = model.image.layout(process.height, process.width)
        self.grid = (layout.rows, layout.cols)

    @cached_property
    def embeddings(self) -> Float[Tensor, "prompt dim"]:
        """The embeddings of all prompts that the data know, by the model as it was at first use."""
        return inputs.prompts(self.model, self.data.prompts).embeddings

    @cached_property
    def attention_layers(self) -> tuple[AttentionLayer, ...]:
        """The attention layers of the image tower, first to last."""
        return self.model.attention_layers("image")

    @cached_property
    def levels(self) -> Float[Tensor, "2 3"]:
        """What the model's preprocessing makes of black and of white."""
        process = self.model.image.preprocess
        return torch.stack([process.level(0), process.level(255)]).to(self.model.device)

    @property
    def knows_absent(self) -> bool:
        """Whether the data say of any prompt that it names nothing in an image."""
        return self.data.complete or self.data.absent is not None

    def preprocessed(self, photos: Sequence[Image.Image]) -> Float[Tensor, "image 3 height width"]:
        """Return the photos as the image tower takes them."""
        process = self.model.image.preprocess
        pixels = [process(photo) for photo in photos]
        shape = (0, 3, process.height, process.width)
        stacked = torch.stack(pixels) if pixels else torch.zeros(shape)
        return stacked.to(self.model.device, self.model.dtype)

    def encode(self, pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image dim"]:
        """Return embeddings of preprocessed images by the model as it now is, in batches."""
        return encode_images(self.model, pixels, self.batch_size)

    def scores_of(self, images: Float[Tensor, "image dim"]) -> Float[Tensor, "image prompt"]:
        """Return the score of each embedding with every prompt."""
        return score_pairs(self.model, images, self.embeddings)

    def paired(
        self, images: Float[Tensor, "image dim"], prompt: Int64[Tensor, " image"]
    ) -> Float[Tensor, " image"]:
        """Return the score of each embedding with its own prompt alone."""
        # The diagonal alone: a table of all prompts would cost a row per variant and prompt.
        texts = self.embeddings[prompt.to(self.embeddings.device)]
        if not self.model.classes:
            images, texts = (torch.nn.functional.normalize(t, dim=-1) for t in (images, texts))
        return (images * texts).sum(-1)

    def batch(self, start: int, stop: int) -> "TaskBatch":
        """Return the images `start` to `stop`, those left out that can be asked nothing.

        The prompt of each is drawn by its number alone, so that batches of any size ask the same.
        """
        photos = [self.data.photos[n] for n in range(start, stop)]
        instances = [self.data.things[n] for n in range(start, stop)]
        objects, labels = visible_objects(self.model, photos, instances, self.grid)
        present = prompts_present(labels, len(self.data.prompts))
        chance = torch.stack([self._chance(n) for n in range(start, stop)])
        named = draw_prompt(chance, present)
        possible = self._possible(start, stop, present)
        if self.knows_absent:
            named[possible.all(1)] = -1  # nothing is absent: right and wrong are the same
        rows = (named >= 0).nonzero()[:, 0]
        asked = [photos[row] for row in rows.tolist()]
        return TaskBatch(
            task=self,
            index=rows + start,
            photos=tuple(asked),
            pixels=self.preprocessed(asked),
            objects=objects[rows],
            labels=labels[rows],
            possible=possible[rows],
            named=named[rows],
            instances=tuple(tuple(instances[row]) for row in rows.tolist()),
        )

    def _possible(
        self, start: int, stop: int, present: Bool[Tensor, "image prompt"]
    ) -> Bool[Tensor, "image prompt"]:
        """Return all prompts but those that are known to name nothing.

        Where the data are not complete, a prompt that is not listed may still be true.
        """
        if self.data.complete or self.data.absent is None:
            return present
        possible = torch.ones_like(present)
        for row, index in enumerate(range(start, stop)):
            possible[row, list(self.data.absent[index])] = False
        return possible | present

    def _chance(self, index: int) -> Float[Tensor, " prompt"]:
        # A prime far above any number of images: two seeds never share an image's draw.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        return torch.rand(len(self.data.prompts), generator=generator)


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskBatch:
    """Images of a task, each with the one prompt that it is asked about.

    index: the images' numbers in the data.
    objects, labels: see `visible_objects`.
    possible: the prompts that may name an object of the image: all that are not known to be absent.
    named: the prompt that the image is asked about.
    """

    task: EvaluationTask
    index: Int64[Tensor, " item"]
    photos: tuple[Image.Image, ...]
    pixels: Float[Tensor, "item 3 _ _"]
    objects: Float[Tensor, "item object row col"]
    labels: Int64[Tensor, "item object"]
    possible: Bool[Tensor, "item prompt"]
    named: Int64[Tensor, " item"]
    instances: tuple[tuple[Instance, ...], ...]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def names(self) -> list[str]:
        """What the images are called: their numbers, which keep the order of the data."""
        return [str(n) for n in self.index.tolist()]

    @property
    def prompts(self) -> list[str]:
        """The texts of the named prompts."""
        return [self.task.data.prompts[n] for n in self.named.tolist()]

    @cached_property
    def right(self) -> Bool[Tensor, " item"]:
        """Whether the named prompt outscores every absent one."""
        return self._outscores(self.task.encode(self.pixels), torch.arange(len(self)))

    @property
    def answers(self) -> list[bool | None]:
        """`right`, or None where the data do not say which prompts are absent."""
        known = self.task.knows_absent
        return [bool(right) if known else None for right in self.right.tolist()]

    @property
    def points(self) -> Int[Tensor, "item height width"] | None:
        """Judged pixels of the named objects as the model sees them: 1 in, -1 out, 0 not judged.

        None where the data judge every pixel, as masks do.
        """
        if not any(one.judged is not None for listed in self.instances for one in listed):
            return None
        process = self.task.model.image.preprocess
        points = torch.zeros(len(self), process.height, process.width, dtype=torch.int64)
        for item, (photo, listed) in enumerate(zip(self.photos, self.instances, strict=True)):
            view = process.view(*photo.size)
            for instance in listed:
                if instance.label == int(self.named[item]) and instance.judged is not None:
                    outside = instance.judged & ~instance.mask
                    for pixels, sign in ((outside, -1), (instance.mask, 1)):
                        row, col = torch.as_tensor(pixels).nonzero().double().unbind(1)
                        y = (row + 0.5 - view.top) / (view.bottom - view.top) * process.height
                        x = (col + 0.5 - view.left) / (view.right - view.left) * process.width
                        y, x = y.floor().long(), x.floor().long()
                        inside = (y >= 0) & (y < process.height) & (x >= 0) & (x < process.width)
                        points[item, y[inside], x[inside]] = sign
        return points

    @property
    def is_named(self) -> Bool[Tensor, "item object"]:
        """Which objects the named prompt names."""
        return of_label(self.labels, self.named)

    @property
    def mask(self) -> Float[Tensor, "item row col"]:
        """The share of each patch that the named objects cover."""
        return union(self.objects, self.is_named)

    # --- what metrics ask of the model --------------------------------------------------------

    def score(
        self, pixels: Float[Tensor, "variant 3 _ _"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        """Score changed images with their items' prompts: see `metrics.base.Score`."""
        return self.task.paired(self.task.encode(pixels), self.named[item.cpu()]).cpu()

    def hit(
        self, pixels: Float[Tensor, "variant 3 _ _"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        """Return 1 where the item's prompt outscores all that are absent from its image, else 0."""
        return self._outscores(self.task.encode(pixels), item.cpu()).float()

    def _outscores(self, images: Tensor, rows: Int[Tensor, " variant"]) -> Bool[Tensor, " variant"]:
        scores = self.task.scores_of(images).cpu()
        return share_outscored(scores, self.named[rows], self.possible[rows]) == 1

    @property
    def removable(self) -> bool:
        """Whether a masked key takes its token away from the embedding.

        It does where all layers attend to the same tokens and the embedding is the row of one.
        """
        one_row = self.task.model.image.readout.row is not None
        return one_row and len({layer.keys for layer in self.task.attention_layers}) == 1

    def tokens(
        self, keep: Bool[Tensor, "variant cell"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        """Score images of which these patches' tokens are left: see `metrics.base.TokenScore`."""
        task = self.task
        with torch.inference_mode():
            images = encode_visible(
                task.model, task.attention_layers, self.pixels, item, keep, task.batch_size
            )
            return task.paired(images.to(task.embeddings.dtype), self.named[item.cpu()]).cpu()
