"""(c) The causes on the text side, order-free, and the lines beside the game (see `gap`)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.engine.api import explain
from heatproof.errors import HeatproofError
from heatproof.evaluation.store import Part
from heatproof.methods import ReadPass, TokenDecomposition
from heatproof.methods.proxy import MethodProxy
from heatproof.models.towers import Tokens
from heatproof.proofs.algebra.all_sizes import one_basis
from heatproof.recipes.grad_eclip_paper.alignment import joined
from heatproof.recipes.grad_eclip_paper.context import Study, native_pixels
from heatproof.recipes.grad_eclip_paper.gap import (
    LAYERS,
    MEAN,
    PASS,
    QUERY,
    RELU,
    TEXT_CAUSES,
    Coalition,
    change_of,
    coalitions,
    eclip_map,
    shares,
    summary,
)
from heatproof.recipes.grad_eclip_paper.inputs import Captioned
from heatproof.recipes.grad_eclip_paper.last_calls import ReadCall, text_calls
from heatproof.recipes.grad_eclip_paper.maps import (
    encode_pictures,
    encode_texts,
    text_sites,
)
from heatproof.recipes.grad_eclip_paper.numbers import mean
from heatproof.recipes.grad_eclip_paper.text_deletion import by_keys
from heatproof.statistics import spearman

PUBLISHED_LAYERS = 8
FEWEST_WORDS = 3
"""Of fewer tokens a rank correlation says nothing: the caption is left out."""

SHARED, AT_ONCE = 96, 8
"""Images of the line on the residual stream, and how many are crossed with each other's prompts."""


def measure(study: Study) -> Part | None:
    """Return gaps and shares over captions, and the lines beside the game."""
    captioned = study.material.captioned
    items: Part = {}
    order: list[float | None] = []
    text = study.model.text
    if captioned is not None and text is not None and text.readout.name != MEAN:
        for start, stop in study.parts("causes, text side", len(captioned.texts)):
            part = study.store.part(
                f"c-gap-text-{start}",
                lambda a=start, b=stop: _measured(study, captioned, a, b),
                stop=stop,
            )
            items, order = joined(items, part["items"]), [*order, *part["order"]]
    found = summary(items, TEXT_CAUSES) if items else {}
    return {
        **found,
        "captions": 0 if captioned is None else len(captioned.texts),
        "lines": {
            "ReLU in each layer, not of the sum": mean(order) if order else None,
            "share of the score through the last attention": study.store.part(
                "c-share", lambda: _share(study)
            ),
            "values before W_O": {"proved": one_basis().checked},
        },
    }


def _measured(study: Study, captioned: Captioned, start: int, stop: int) -> Part:
    model = study.model
    assert model.text is not None
    tokens = model.text.tokenize(list(captioned.texts[start:stop]))
    pictures = encode_pictures(model, native_pixels(model, captioned.photos[start:stop]))
    truth = removal(study, tokens, pictures)
    every = coalitions(TEXT_CAUSES)
    columns = len(truth)
    quality = torch.full((len(every), columns), torch.nan, dtype=torch.float64)
    distance = quality.clone()
    order: list[float | None] = [None] * columns
    reference: list[Tensor] = []
    # Fewest causes first, so that the reference is there before anything is held to it.
    for changed in coalitions(sorted(PASS)):
        for many in (False, True):
            calls = _calls(study, tokens, pictures, changed, many)
            for row, coalition in enumerate(every):
                if changed != coalition & PASS or many != (LAYERS in coalition):
                    continue
                words = _words(_total(calls, coalition, tokens), tokens)
                reference = reference or words
                quality[row] = torch.stack(
                    [_ranked(*pair) for pair in zip(words, truth, strict=True)]
                )
                distance[row] = 1 - torch.stack(
                    [_ranked(*pair) for pair in zip(words, reference, strict=True)]
                )
                if coalition == frozenset(TEXT_CAUSES):
                    each = _words(_total(calls, coalition, tokens, in_each=True), tokens)
                    pairs = zip(each, words, strict=True)
                    order = [float(1 - _ranked(*pair)) for pair in pairs]
    known = [len(each) >= FEWEST_WORDS for each in truth]
    gaps = {"agreement with removal": quality[:1] - quality, "distance": distance}
    gaps = {name: values[:, known] for name, values in gaps.items()}
    kept = [value for value, use in zip(order, known, strict=True) if use]
    return {"items": shares(gaps, TEXT_CAUSES), "order": kept}


def _calls(
    study: Study, tokens: Tokens, pictures: Tensor, changed: Coalition, many: bool
) -> list[ReadCall]:
    count = min(PUBLISHED_LAYERS, len(text_sites(study.model, tokens))) if many else 1
    return text_calls(study.model, tokens, pictures, count, change_of(changed))


def _total(
    calls: Sequence[ReadCall], coalition: Coalition, tokens: Tokens, in_each: bool = False
) -> Float[Tensor, "item token"]:
    visible = torch.arange(tokens.ids.shape[1]) <= tokens.readout.cpu().view(-1, 1)
    # On the text side the weight is always of the readout's own query.
    maps = [eclip_map(call, coalition | {QUERY}, visible) for call in calls]
    if in_each:
        maps = [values.clamp(min=0) for values in maps]
    total = torch.stack(maps).sum(0)
    return total.clamp(min=0) if RELU in coalition else total


def _words(values: Float[Tensor, "item token"], tokens: Tokens) -> list[Tensor]:
    return [
        values[n, [piece.position for piece in each]].double()
        for n, each in enumerate(tokens.pieces)
    ]


def _ranked(one: Float[Tensor, " word"], other: Float[Tensor, " word"]) -> Float[Tensor, ""]:
    """Return the rank correlation of two maps of words; a constant one ranks nothing: 0."""
    return spearman(one, other).nan_to_num(0)


def removal(
    study: Study, tokens: Tokens, pictures: Float[Tensor, "item dim"]
) -> list[Float[Tensor, " word"]]:
    """Return what the score loses when nothing may attend to a token, for each token's own."""
    counts = [len(each) for each in tokens.pieces]
    places = [n for n, count in enumerate(counts) for _ in range(count + 1)]
    left = [
        row
        for count in counts
        for row in torch.cat([torch.ones(1, count), 1 - torch.eye(count)]).bool()
    ]
    cosines = by_keys(study.model, tokens, pictures)(places, left).double()
    split = cosines.split([count + 1 for count in counts])
    return [values[0] - values[1:] for values in split]


# --- beside the game -----------------------------------------------------------------------------


class _LastShare(MethodProxy):
    """Records how much of the score the last attention call brings to the readout."""

    def __init__(self) -> None:
        super().__init__(TokenDecomposition(layers=1))
        self.decomposition = TokenDecomposition(layers=1)
        self.shares: list[Tensor] = []

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        """Keep the share, and return the method's values."""
        attention = self.decomposition.parts(read).attention.sum((2, 3, 4))
        # Images are crossed with targets: each image's own is on the diagonal.
        self.shares.append((attention / self.decomposition.total(read)).diagonal().cpu())
        return super().attribute(read)


def _share(study: Study) -> Part:
    """Return the mean share of the cosine that passes the last attention call of the images.

    The rest never meets it: it stands in the residual stream already, or is the last MLP's. No map
    of the last attention call shows it.
    """
    located = study.material.located
    if located is None:
        return {"value": None, "why": "no images with objects"}
    photos = located.photos[: min(len(located.photos), SHARED)]
    recorder = _LastShare()
    texts = encode_texts(study.model, located.prompts)[located.named[: len(photos)]]
    pixels = native_pixels(study.model, photos).to(study.model.dtype)
    try:
        for some, own in zip(pixels.split(AT_ONCE), texts.split(AT_ONCE), strict=True):
            explain(study.model, some, own, method=recorder, certify=False)
    except HeatproofError as error:
        return {"value": None, "why": str(error)}
    return mean(torch.cat(recorder.shares))
