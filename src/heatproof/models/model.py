"""What a model is: towers, scale, weights. The forward passes are the model's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import nn

from heatproof.certificate import Weights
from heatproof.errors import HeatproofError
from heatproof.images import open_image
from heatproof.models.description import ModelDescription
from heatproof.models.library import Library, NoLibrary
from heatproof.models.projection import floating_dtype
from heatproof.models.running import find_out_why
from heatproof.models.state import checksum, weights_sha256
from heatproof.models.towers import ImageTower, Side, TextTower, Tokens
from heatproof.reading import AttentionLayer, find_attention_layers

COARSEST_FIRST = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def precision_of(module: nn.Module) -> torch.dtype:
    """Return the coarsest dtype in which a module computes now: see `Model.precision`."""
    dtypes = {each.dtype for each in module.parameters()}
    kind = next((each.device.type for each in module.parameters()), "cpu")
    if torch.is_autocast_enabled(kind) and dtypes != {torch.float64}:
        dtypes.add(torch.get_autocast_dtype(kind))
    return next((each for each in COARSEST_FIRST if each in dtypes), torch.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A loaded model, described. `text` is None for a classifier, whose prompts are `classes`, and
    for an image tower on its own, whose prompts are embeddings (no `classes`).

    `logit_scale` is the factor itself (CLIP's exp(logit_scale)); `logit_bias` is SigLIP's.
    `sigmoid` says that pair scores are read through a sigmoid (SigLIP), not a softmax.
    `resized(height, width)` is the same weights at another input size, with the position
    embeddings interpolated by the family's own rule; None where the family allows no other size.
    It squashes whole photos to that size; `resized_as_trained` resizes and crops them as the
    model's own preprocessing does, where that is another rule and known.
    `weights` says whether they were loaded from a file, are random, or came in with a module
    (unknown). `notices` are lines that the user must see (rendered scenes only, ...).
    `library` is the library's own way from a photo to a score, or why none is known.
    """

    spec: str
    family: str
    module: nn.Module
    image: ImageTower
    text: TextTower | None = None
    classes: tuple[str, ...] = ()
    logit_scale: float = 1.0
    logit_bias: float = 0.0
    sigmoid: bool = False
    resized: Callable[[int, int], "Model"] | None = None
    resized_as_trained: Callable[[int, int], "Model"] | None = None
    weights: Weights = "unknown"
    notices: tuple[str, ...] = field(default=())
    library: Library | NoLibrary = field(default=NoLibrary())

    @property
    def device(self) -> torch.device:
        """Return where the model's parameters are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype in which the image tower takes pixels: that of its first convolution or
        linear map. Models in mixed precision keep others elsewhere."""
        tower = self.module.get_submodule(self.image.path)
        weights = (
            part.weight for part in tower.modules() if isinstance(part, nn.Conv2d | nn.Linear)
        )
        dtypes = (weight.dtype for weight in weights if weight.is_floating_point())
        return next(dtypes, floating_dtype(tower))

    @property
    def precision(self) -> torch.dtype:
        """Return the coarsest dtype in which anything is computed now: of all parameters, and of
        `torch.autocast` where it is on. It decides how exactly two passes must agree."""
        return precision_of(self.module)

    def attention_layers(
        self, side: Side, size: Sequence[int] | None = None
    ) -> tuple[AttentionLayer, ...]:
        """Return the attention calls of one tower, first to last.

        They are found by one forward pass over a blank input, and remembered for each size.

        Args:
            side: The tower.
            size: Height and width of the pixels, or the length of a prompt in tokens; without it,
                the model's own input size or its context.

        Raises:
            ReadingError: attention cannot be read, or is windowed.
            ModelError: the encoder fails by itself.
        """
        size = self._own_size(side) if size is None else tuple(size)
        # Threads that share a model may both look for its layers; both find the same.
        known = _layers.setdefault(self, {})
        if (side, size) not in known:
            known[side, size] = self._find_layers(side, size)
        return known[side, size]

    def _own_size(self, side: Side) -> tuple[int, ...]:
        if side == "image":
            return self.image.preprocess.height, self.image.preprocess.width
        assert self.text is not None
        return (self.text.context,)

    def _find_layers(self, side: Side, size: tuple[int, ...]) -> tuple[AttentionLayer, ...]:
        def encode() -> object:
            if side == "image":
                blank = torch.zeros(1, 3, *size, device=self.device, dtype=self.dtype)
                return self.image.encode(blank)
            assert self.text is not None
            return self.text.encode(_blank_prompt(*size))

        try:
            return find_attention_layers(self.module, encode, 1)
        except HeatproofError:
            raise
        except Exception:
            find_out_why(self.spec, side, encode)
            raise

    def describe(self, photo: object = None) -> ModelDescription:
        """Return the facts that decide where a map lies; printed, one line per fact.

        Args:
            photo: A path, PIL image or uint8 array; what the model sees of it is described too.

        Raises:
            ReadingError: attention cannot be read.
            ImageError: the photo cannot be read.
        """
        process, view, size = self.image.preprocess, None, self._own_size("image")
        if photo is not None:
            image = open_image(photo).image
            view = process.view(*image.size)
            if process.flexible:  # the grid is the photo's own
                size = tuple(process(image).shape[1:])
        black, white = (process.level(grey).double() for grey in (0, 255))
        height, width = size
        return ModelDescription(
            spec=self.spec,
            family=self.family,
            weights=self.weights,
            dtype=str(self.dtype).removeprefix("torch."),
            precision=str(self.precision).removeprefix("torch."),
            size=(height, width),
            layout=self.image.layout(height, width),
            readout=self.image.readout,
            image_layers=self.attention_layers("image", size),
            preprocess=process,
            mean=tuple((black / (black - white)).tolist()),
            std=tuple((1 / (white - black)).tolist()),
            resizable=self.resized is not None,
            score=self._score(),
            context=self.text.context if self.text else None,
            text_readout=self.text.readout if self.text else None,
            text_layers=self.attention_layers("text") if self.text else (),
            classes=self.classes,
            view=view,
        )

    def _score(self) -> str:
        if self.classes:
            return "logits"
        if self.sigmoid:
            return f"sigmoid of {self.logit_scale:.4g} x cosine {self.logit_bias:+.4g}"
        return f"softmax of {self.logit_scale:.4g} x cosine" if self.text else "cosine"

    @property
    def weights_hash(self) -> str:
        """Return the SHA-256 over names, shapes and bytes of all parameters and buffers, as they
        are now. It is computed again where their checksum has changed (see `models.state`)."""
        now = checksum(self.module)
        before, known = _hashes.get(self, ("", ""))
        if before != now:
            known = weights_sha256(self.module)
            _hashes[self] = now, known
        return known


_layers: WeakKeyDictionary[Model, dict[tuple[Side, tuple[int, ...]], tuple[AttentionLayer, ...]]]
_layers = WeakKeyDictionary()
# The checksum of a model's weights, and the SHA-256 of these.
_hashes: WeakKeyDictionary[Model, tuple[str, str]] = WeakKeyDictionary()


def _blank_prompt(length: int) -> Tokens:
    """Return one prompt of `length` equal tokens, all of them the prompt's own."""
    return Tokens(
        ids=torch.zeros(1, length, dtype=torch.long),
        readout=torch.zeros(1, dtype=torch.long),
        texts=("",),
        pieces=((),),
        cut=("",),
        mask=torch.ones(1, length, dtype=torch.bool),
    )
