"""timm's and torchvision's classifiers, and timm's image towers of CLIP models.

Nothing here computes logits: `encode` is the model itself. Other input sizes are served by a shell
around the very same parameters, with its position embeddings resampled by the library's own rule.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionViT

from heatproof.certificate import Weights
from heatproof.errors import ModelError
from heatproof.models import library
from heatproof.models.classifiers import timm, torchvision
from heatproof.models.classifiers.facts import ClassifierFacts
from heatproof.models.geometry import Preprocess
from heatproof.models.model import Model
from heatproof.models.resizing import check_multiples, shell
from heatproof.models.towers import ImageTower

EMBEDS = (
    "the model is an image tower without a text tower: prompts are embeddings, compared by cosine"
)

KINDS = (VisionTransformer, Eva, TorchvisionViT)
_WINDOWED = ("SwinTransformer", "SwinTransformerV2")


def recognises(module: nn.Module) -> bool:
    """Return whether `module` is one of timm's or torchvision's, described here or refused."""
    kinds = (kind.__module__ for kind in type(module).__mro__)
    return any(kind.startswith(("timm.models.", "torchvision.models.")) for kind in kinds)


def wrap(
    module: nn.Module,
    *,
    spec: str | None = None,
    preprocess: Preprocess | None = None,
    tokenizer: Any = None,
    weights: Weights = "unknown",
    notices: tuple[str, ...] = (),
) -> Model:
    """Describe a classifier of timm's or torchvision's. Its prompts are classes: no tokenizer."""
    if tokenizer is not None:
        raise ModelError(
            f"a classifier ({type(module).__name__}) takes class names or indices as prompts, "
            "and no tokenizer"
        )
    facts = _facts_of(module)
    if not facts.classes and EMBEDS not in notices:
        notices = (*notices, EMBEDS)
    resized = partial(_resized, module, facts, spec=spec, weights=weights, notices=notices)
    return Model(
        spec=spec or type(module).__name__,
        family=facts.family,
        module=module,
        image=ImageTower(
            encode=module,
            path="",
            layout=facts.layout,
            readout=facts.readout,
            preprocess=preprocess or facts.preprocess,
            project=facts.project,
        ),
        classes=facts.classes,
        resized=resized if facts.resize else None,
        weights=weights,
        notices=notices,
        library=_library(module, facts, preprocess),
    )


def _library(
    module: nn.Module, facts: ClassifierFacts, preprocess: Preprocess | None
) -> library.Library | library.NoLibrary:
    """Return the library's own way: the transform of the model's configuration, or the given one.

    torchvision's models do not say how their images are made.
    """
    features = not facts.classes
    if preprocess is not None:
        transform = preprocess.transform
        name = f"the given preprocess ({library.name_of(transform)})"
        return library.classifier(module, transform, name, features=features)
    if facts.transform is None:
        return library.NoLibrary(
            f"a {type(module).__name__} of torchvision does not name its transform, and the usual "
            "one was taken; pass wrap(..., preprocess=weights.transforms())"
        )
    return library.classifier(module, facts.transform(), "timm's transform", features=features)


def _facts_of(module: Any) -> ClassifierFacts:
    if isinstance(module, VisionTransformer | Eva):
        return timm.facts_of(module)
    if isinstance(module, TorchvisionViT):
        return torchvision.facts_of(module)
    if type(module).__name__ in _WINDOWED:
        return torchvision.windowed_facts(module)
    if any("attention" in type(part).__name__.lower() for part in module.modules()):
        raise ModelError(
            f"got a {type(module).__name__}, whose attention heatproof does not know; expected "
            "timm's VisionTransformer or Eva, or torchvision's VisionTransformer"
        )
    raise ModelError(
        f"got a {type(module).__name__}, which has no attention to read; expected a vision "
        "transformer, such as timm:vit_base_patch16_224"
    )


def _resized(
    module: nn.Module, facts: ClassifierFacts, height: int, width: int, **known: Any
) -> Model:
    """Return the same weights at `height` x `width`, which the whole photo is squashed to."""
    size, twin = (height, width), module
    assert facts.resize is not None
    assert facts.squash is not None
    # At its own size the module itself is taken: no position is resampled.
    if size != facts.native:
        check_multiples(size, facts.patch)
        twin = shell(module)
        facts.resize(twin, size)
    sized = wrap(twin, preprocess=facts.squash(size), **known)
    return replace(sized, library=library.another_size(height, width))
