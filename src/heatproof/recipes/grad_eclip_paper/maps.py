"""Maps of pairs: each image with its own prompt, each caption with its own image.

`explain` crosses every image with every prompt; the experiments need the diagonal only.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heatproof.engine import inputs
from heatproof.engine.batches import image_batch, text_batch
from heatproof.engine.forward import Reader
from heatproof.evaluation.encoding import encode_images
from heatproof.methods import Method
from heatproof.methods.pass_context import Batch, Side
from heatproof.models import Model
from heatproof.models.towers import Tokens
from heatproof.reading import AttentionLayer, Intervention, reading

BATCH = 128


def unit(embedding: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
    """Normalise to unit length, at least in float32."""
    return F.normalize(embedding if embedding.dtype == torch.float64 else embedding.float(), dim=-1)


def image_sites(
    model: Model, pixels: Float[Tensor, "item 3 height width"]
) -> tuple[AttentionLayer, ...]:
    """Return the attention layers of the image tower, first to last."""
    return model.attention_layers("image", pixels.shape[-2:])


def text_sites(model: Model, tokens: Tokens) -> tuple[AttentionLayer, ...]:
    """Return the attention layers of the text tower, first to last."""
    return model.attention_layers("text", tokens.ids.shape[-1:])


def image_maps(
    model: Model,
    method: Method,
    pixels: Float[Tensor, "item 3 height width"],
    targets: Float[Tensor, "item dim"],
    *,
    seed: int,
    sites: Sequence[AttentionLayer] | None = None,
) -> tuple[Float[Tensor, "item row col"], Float[Tensor, " item"]]:
    """Map each image's cosine with its own target; return signed maps and the cosines explained."""
    layout = model.image.layout(pixels.shape[-2], pixels.shape[-1])
    sites = image_sites(model, pixels) if sites is None else sites
    parts = zip(pixels.split(BATCH), targets.split(BATCH), strict=True)
    values, scores = _attribute(
        model,
        method,
        sites,
        [
            image_batch(
                model, part.to(model.device, model.dtype), partial(_own, own.to(model.device))
            )
            for part, own in parts
        ],
        seed,
    )
    return layout.grid(values), scores


def text_maps(
    model: Model,
    method: Method,
    tokens: Tokens,
    targets: Float[Tensor, "item dim"],
    *,
    seed: int,
) -> tuple[Float[Tensor, "item token"], Float[Tensor, " item"]]:
    """Map each caption's cosine with its own image: one signed value per token of the context."""
    assert model.text is not None
    batches = [
        text_batch(
            model.text,
            inputs.select(tokens, start, start + BATCH),
            partial(_own, targets[start : start + BATCH].to(model.device)),
        )
        for start in range(0, len(tokens.texts), BATCH)
    ]
    return _attribute(model, method, text_sites(model, tokens), batches, seed)


def _attribute(
    model: Model,
    method: Method,
    layers: Sequence[AttentionLayer],
    batches: Sequence[Batch],
    seed: int,
) -> tuple[Float[Tensor, "item token"], Float[Tensor, " item"]]:
    """Attribute batches of one target each; return values and scores on the CPU."""
    attributions = [
        # A seed per batch: a resumed run draws the same numbers as one that was never stopped.
        Reader(
            model=model, method=method, layers=layers, seed=seed + number, evidence="none"
        ).attribute(batch)
        for number, batch in enumerate(batches)
    ]
    values = torch.cat([attribution.values[:, 0].cpu() for attribution in attributions])
    return values, torch.cat([attribution.scores[:, 0].cpu() for attribution in attributions])


def _own(targets: Tensor, embedding: Tensor) -> Float[Tensor, "item 1"]:
    return (unit(embedding) * targets.to(embedding.dtype)).sum(-1, keepdim=True)


@contextmanager
def changed(model: Model, interventions: Mapping[str, Intervention]) -> Generator[None]:
    """Intervene on these attention layers while the context is open."""
    if not interventions:
        yield
        return
    none: list[str] = []
    # A reading of no layer: the interventions alone act.
    with reading(model.module, none, interventions=interventions):
        yield


def encode_pictures(
    model: Model,
    pixels: Float[Tensor, "item 3 height width"],
    interventions: Mapping[str, Intervention] | None = None,
) -> Float[Tensor, "item dim"]:
    """Encode images to unit embeddings on the CPU, by the model as it is or as intervened on."""
    with changed(model, interventions or {}):
        return unit(encode_images(model, pixels, BATCH)).cpu()


def encode_texts(
    model: Model,
    texts: Sequence[str],
    interventions: Mapping[str, Intervention] | None = None,
) -> Float[Tensor, "text dim"]:
    """Encode texts to unit embeddings on the CPU; an empty text is allowed."""
    assert model.text is not None
    return encode_tokens(model, model.text.tokenize(list(texts)), interventions)


def encode_tokens(
    model: Model,
    tokens: Tokens,
    interventions: Mapping[str, Intervention] | None = None,
    *,
    batch_size: int = BATCH,
) -> Float[Tensor, "text dim"]:
    """Encode tokens. An intervention made for these very captions needs them in one batch."""
    assert model.text is not None
    parts: list[Tensor] = []
    for start in range(0, len(tokens.texts), batch_size):
        with torch.no_grad(), changed(model, interventions or {}):
            part = model.text.encode(inputs.select(tokens, start, start + batch_size))
        parts.append(unit(part).cpu())
    return torch.cat(parts)


__all__ = ["BATCH", "Side", "changed", "encode_pictures", "encode_texts", "image_maps", "text_maps"]
