"""Models of transformers; `families` holds one file per architecture that is described."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from heatproof.certificate import Weights
from heatproof.errors import ModelError
from heatproof.models import library, tokenizers
from heatproof.models.geometry import Preprocess
from heatproof.models.hugging_face import processors
from heatproof.models.hugging_face.families import architecture_of
from heatproof.models.hugging_face.prompts import text_tower
from heatproof.models.hugging_face.sides import Architecture, ImageSide
from heatproof.models.model import Model
from heatproof.models.resizing import check_multiples
from heatproof.models.towers import ImageTower


def recognises(module: nn.Module) -> bool:
    """Return whether `module` is one of the Hugging Face models that can be described."""
    return architecture_of(module) is not None


def wrap(
    module: nn.Module,
    *,
    spec: str | None = None,
    preprocess: Any = None,
    tokenizer: Any = None,
    weights: Weights = "unknown",
    notices: tuple[str, ...] = (),
) -> Model:
    """Describe a Hugging Face model.

    `preprocess` is a `Preprocess` or a Hugging Face image processor (or processor of both);
    `tokenizer` a tokenizer or such a processor. Without them the family's usual image processor,
    and CLIP's own tokenizer for a vocabulary of its size.
    """
    architecture = architecture_of(module)
    if architecture is None:
        raise ModelError(
            f"got a {type(module).__name__}, which is no Hugging Face model known here"
        )
    side = architecture.image(module)
    processor = None if isinstance(preprocess, Preprocess) else preprocess
    # A processor of both sides holds the one of images.
    processor = getattr(processor, "image_processor", processor)
    own = _library(module, architecture, side, processor or preprocess, tokenizer)
    processor = processor or architecture.usual_processor(side)
    if not isinstance(preprocess, Preprocess):
        preprocess = processors.preprocess_of(processor, side)
    known = _HuggingFaceParts(
        module=module,
        architecture=architecture,
        side=side,
        processor=processor,
        tokenizer=tokenizer,
        spec=spec or type(module).__name__,
        weights=weights,
        notices=notices,
    )
    return _model(known, preprocess, own)


@dataclass(frozen=True, kw_only=True)
class _HuggingFaceParts:
    """Hold what a model keeps at every input size."""

    module: Any
    architecture: Architecture
    side: ImageSide
    processor: Any
    tokenizer: Any
    spec: str
    weights: Weights
    notices: tuple[str, ...]


def _library(
    module: Any, architecture: Architecture, side: ImageSide, given: Any, tokenizer: Any
) -> library.Library | library.NoLibrary:
    """Return transformers' own way, through the processor or transform that was given."""
    if given is None:
        usual = type(architecture.usual_processor(side)).__name__
        return library.NoLibrary(
            f"the model came without its image processor, and the usual {usual} was taken; pass "
            "wrap(..., preprocess=processor)"
        )
    if isinstance(given, Preprocess):
        # The model takes patches and positions; a transform of pixels cannot make them.
        if side.cuts_patches:
            return library.NoLibrary(
                "the given preprocess makes pixels, and the model's own call takes patches; pass "
                "its image processor"
            )
        # The library's check runs what the user gave, not our description of it.
        given = given.transform
    tokenizer = None if isinstance(tokenizer, tokenizers.Missing) else tokenizer
    return architecture.call(module, given, tokenizer)


def _model(
    known: _HuggingFaceParts, preprocess: Preprocess, own: library.Library | library.NoLibrary
) -> Model:
    module, side, text = known.module, known.side, known.architecture.text
    bias = getattr(module, "logit_bias", None)
    scale = getattr(module, "logit_scale", None)
    return Model(
        spec=known.spec,
        family=side.family,
        module=module,
        image=ImageTower(
            encode=side.encode,
            path=side.path,
            layout=side.layout,
            readout=side.readout,
            preprocess=preprocess,
            project=side.project,
        ),
        text=text and text_tower(text(module), known.tokenizer),
        classes=() if text else _classes(module.config),
        logit_scale=1.0 if scale is None else float(scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
        # SigLIP alone has a bias: its scores are independent probabilities.
        sigmoid=bias is not None,
        resized=partial(_resized, known) if side.any_size else None,
        weights=known.weights,
        notices=known.notices,
        library=own,
    )


def _classes(config: Any) -> tuple[str, ...]:
    return tuple(str(config.id2label[index]) for index in range(config.num_labels))


def _resized(known: _HuggingFaceParts, height: int, width: int) -> Model:
    """Return the same model at `height` x `width`, which the whole photo is squashed to."""
    # The native size need not be a multiple of the patch: some models leave a rim out.
    if (height, width) != known.side.native:
        check_multiples((height, width), known.side.patch)
    preprocess = processors.squashed(known.processor, known.side, (height, width))
    return _model(known, preprocess, library.another_size(height, width))
