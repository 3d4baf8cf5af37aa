"""(e) Text deletion: the words that a map names are taken out of the caption, in two ways.

formula     s(k) = cosine of the image and the caption without its k highest tokens, k = 0 .. all;
            the area is the trapezoid rule over k / all, so that captions of any length compare
direction   lower is better; in the reversed order (lowest tokens first) higher is better
endpoints   the whole caption; a caption of no word: BOS and end-of-text alone
source      arXiv 2605.12952 reports text deletion on 1,000 COCO captions; no script was released,
            so what is removed is defined here, twice. `words`: the word is deleted and the shorter
            text is tokenised anew, as a reader would do it; what follows moves up. `masked keys`:
            no other token may attend to the token in any layer; nothing moves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.engine import inputs
from heatproof.engine.api import merge
from heatproof.evaluation.store import Part
from heatproof.metrics.base import area
from heatproof.metrics.ranking import places, ranked, shuffled
from heatproof.metrics.text_deletion import without
from heatproof.models import Model
from heatproof.models.towers import Tokens
from heatproof.reading import Intervention
from heatproof.reading.interventions import masked_keys
from heatproof.recipes.grad_eclip_paper.alignment import joined
from heatproof.recipes.grad_eclip_paper.catalogue import readable
from heatproof.recipes.grad_eclip_paper.context import Study, native_pixels
from heatproof.recipes.grad_eclip_paper.inputs import Captioned
from heatproof.recipes.grad_eclip_paper.maps import (
    encode_pictures,
    encode_texts,
    encode_tokens,
    text_maps,
    text_sites,
)
from heatproof.recipes.grad_eclip_paper.numbers import mean, paired

WAYS = ("words", "masked keys")
ORDERS = ("highest first", "lowest first")

Scorer = Callable[[list[int], list[Tensor]], Float[Tensor, " variant"]]
"""Cosines of captions, by their places, with only these words or tokens left."""


def measure(study: Study) -> Part | None:
    """Measure the area under the cosine as words are removed, for every method that reads text."""
    captioned = study.material.captioned
    if captioned is None:
        return None
    items: Part = {}
    for start, stop in study.parts("text deletion", len(captioned.texts), 2 * study.chunk):
        part = study.store.part(
            f"e-captions-{start}",
            lambda a=start, b=stop: _measured(study, captioned, a, b),
            stop=stop,
        )
        items = joined(items, part)
    ways = {way: _way(items["areas"][way]) for way in WAYS}
    return {"captions": len(captioned.texts), "example": captioned.texts[0], "ways": ways}


def _measured(study: Study, captioned: Captioned, start: int, stop: int) -> Part:
    model = study.model
    assert model.text is not None
    texts = list(captioned.texts[start:stop])
    tokens = model.text.tokenize(texts)
    pictures = encode_pictures(model, native_pixels(model, captioned.photos[start:stop]))
    words: dict[str, list[Tensor]] = {}
    pieces: dict[str, list[Tensor]] = {}
    for name, method in readable("text").items():
        values, _ = text_maps(model, method, tokens, pictures, seed=study.seed + start)
        by_piece = [
            values[n, [piece.position for piece in each]] for n, each in enumerate(tokens.pieces)
        ]
        pieces[name] = by_piece
        words[name] = [
            torch.tensor([w.value for w in merge(text, tokens.pieces[n], by_piece[n])])
            for n, text in enumerate(texts)
        ]
    spoken = [
        [w.text for w in merge(text, each, torch.zeros(len(each)))]
        for text, each in zip(texts, tokens.pieces, strict=True)
    ]
    # Seeds by caption, so that ties do not depend on the part a caption is in.
    first = (study.seed << 24) + start
    return {
        "areas": {
            "words": _areas(words, _by_words(model, spoken, pictures), first),
            "masked keys": _areas(pieces, by_keys(model, tokens, pictures), first),
        }
    }


def _areas(values: dict[str, list[Tensor]], score: Scorer, first: int) -> Part:
    """Return one area per caption for each method and order; captions without a word give None.

    first: the first caption's seed for ties, which are drawn for each caption.
    """
    found: Part = {}
    for name, each in values.items():
        found[name] = {}
        for order in ORDERS:
            left = [
                shortened(
                    v,
                    reverse=order == ORDERS[1],
                    ties=shuffled(torch.tensor([n]), len(v), first)[0],
                )
                for n, v in enumerate(each)
            ]
            places = [n for n, points in enumerate(left) for _ in points]
            cosines = score(places, [row for points in left for row in points])
            split = cosines.split([len(points) for points in left])
            found[name][order] = [
                curve_area(curve.double()) if len(curve) > 1 else None for curve in split
            ]
    return found


def _by_words(model: Model, words: Sequence[Sequence[str]], pictures: Tensor) -> Scorer:
    def score(places: list[int], left: list[Bool[Tensor, " _word"]]) -> Tensor:
        texts = [without(words[n], kept) for n, kept in zip(places, left, strict=True)]
        distinct = list(dict.fromkeys(texts))
        place = {text: n for n, text in enumerate(distinct)}
        encoded = encode_texts(model, distinct)
        rows = encoded[[place[text] for text in texts]]
        return (rows * pictures[places]).sum(-1)

    return score


def by_keys(model: Model, tokens: Tokens, pictures: Tensor) -> Scorer:
    """Return the scorer of captions some of whose tokens no other token may attend to."""
    positions = [[piece.position for piece in each] for each in tokens.pieces]
    sites = text_sites(model, tokens)

    def score(places: list[int], left: list[Bool[Tensor, " _token"]]) -> Tensor:
        parts: list[Tensor] = []
        for start in range(0, len(places), 512):
            these = places[start : start + 512]
            hidden: Any = hidden_tokens(
                left[start : start + 512], [positions[n] for n in these], tokens.ids.shape[1]
            )
            batch = _picked(tokens, these)
            encoded = encode_tokens(
                model, batch, {site.path: hidden for site in sites}, batch_size=len(these)
            )
            parts.append((encoded * pictures[these]).sum(-1))
        return torch.cat(parts)

    return score


def _picked(tokens: Tokens, rows: Sequence[int]) -> Tokens:
    picked = [inputs.select(tokens, n, n + 1) for n in rows]
    first = picked[0]
    return Tokens(
        ids=torch.cat([each.ids for each in picked]),
        readout=torch.cat([each.readout for each in picked]),
        texts=tuple(each.texts[0] for each in picked),
        pieces=tuple(each.pieces[0] for each in picked),
        cut=tuple(each.cut[0] for each in picked),
        mask=None
        if first.mask is None
        else torch.cat([each.mask for each in picked if each.mask is not None]),
    )


# --- curves -----------------------------------------------------------------------------------


def shortened(
    values: Float[Tensor, " token"],
    *,
    reverse: bool = False,
    ties: Int[Tensor, " token"] | None = None,
) -> Bool[Tensor, "point token"]:
    """Which tokens are left at each point, from all of them to none; see `ranked`."""
    count = len(values)
    signed = -values if reverse else values
    order = ranked(signed[None], None if ties is None else ties[None])
    return places(order) >= torch.arange(count + 1).unsqueeze(1)


def hidden_tokens(
    left: Sequence[Bool[Tensor, " _token"]], positions: Sequence[Sequence[int]], context: int
) -> Intervention:
    """Masked keys for a batch of captions: token n of caption b stands at `positions[b][n]`."""
    keep = torch.ones(len(left), context, dtype=torch.bool)
    for row, (kept, at) in enumerate(zip(left, positions, strict=True)):
        keep[row, torch.tensor(at)] = kept
    return masked_keys(keep)


def curve_area(values: Float[Tensor, " point"]) -> float:
    """The area under a caption's curve over the share of its tokens that are gone."""
    return float(area(values, [n / (len(values) - 1) for n in range(len(values))]))


def _way(areas: Part) -> Part:
    found: Part = {}
    for name, orders in areas.items():
        highest, lowest = (orders[order] for order in ORDERS)
        found[name] = {
            "area": mean(highest),
            "against random": paired(highest, areas["random"][ORDERS[0]]),
            "against its reverse": paired(highest, lowest),
        }
    published = areas["grad-eclip"][ORDERS[0]]
    for name, orders in areas.items():
        found[name]["against grad-eclip"] = paired(orders[ORDERS[0]], published)
    return found
