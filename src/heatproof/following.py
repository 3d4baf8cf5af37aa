"""Does a map follow its prompt? How much it changes under null prompts, and what stays the same.

A map of a prompt is a part that is the same for every prompt (what the image does to any score)
plus a part of its own. Two maps whose parts of their own have nothing to do with each other have
the geometric mean of their common shares for a cosine. So with c the mean cosine of a map to the
null prompts' maps, and n the mean cosine of these to each other (their own common share), the
map's common share is c * c / n. Where n is smaller than c it is c: a share is never taken to be
larger than the cosine shows. Shares are of the squared norm; a map that points away from the null
prompts' (c < 0) has none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.certificate import Light, State
from heatproof.certify import NULL_PROMPTS, UNCHANGED, Following, change
from heatproof.inputs import Prompts
from heatproof.methods.base import Factors, Side

COMMON = 1 / 3
"""The largest share of a map that may be the same for every prompt without a warning."""

# Words that name nothing that could be seen in one image and not in another.
EMPTY_WORDS = {
    *("a", "an", "the", "of", "and", "or", "to", "is", "are", "there", "this", "that", "with"),
    *("in", "on", "at", "no", "not", "my", "its", "photo", "picture", "image", "photograph"),
    *("something", "thing", "object"),
}


def measured(
    values: Float[Tensor, "image target token"],
    asked: Prompts,
    nulls: Prompts | None,
    factors: Factors,
    reason: str,
) -> Following:
    """How maps follow their prompts; prompts that say nothing to the model are left out.

    Behind the targets that were asked stand the null prompts, if there are any; `reason` says why
    there are none.
    """
    known = declared(asked, factors, "image")
    telling = [n for n, text in enumerate(asked.labels) if text not in known.says_nothing]
    maps, null = values[:, telling], values[:, len(asked.labels) :]
    changes: dict[str, float] = {}
    share = None
    if nulls is not None and telling:
        changes = {
            kind: float(change(maps, null[:, n]).mean()) for n, kind in enumerate(NULL_PROMPTS)
        }
        share = float(common_share(maps, null).mean())
    light = known.light
    if light.state == "not established":
        light = _of_measures(changes, share) if share is not None else _between(maps, reason)
    partly = _partly_unknown(asked, known.says_nothing)
    if partly and light.state == "yes":
        light = _follows("limited", f"{'; '.join(partly)}; {light.evidence}")
    return replace(
        known,
        changes=changes,
        common_share=share,
        light=light,
        warnings=(*known.warnings, *_warnings(changes, share)),
    )


def declared(asked: Prompts, factors: Factors, side: Side) -> Following:
    """What is known of it before anything is measured."""
    silent = {
        text: f"{text!r} says nothing to this model: it does not know {_named(words)}"
        for text, words in zip(asked.labels, asked.unknown, strict=False)
        if says_nothing(text, words)
    }
    if factors.substituted and factors.replaced == "everything":
        light = _follows("no", "the map is not computed from the prompt")
    elif side == "text":
        light = _follows("not applicable", "the values are of the prompt's own words")
    else:
        light = _follows("not established", "not measured")
    return Following({}, None, light, tuple(silent.values()), silent)


def common_share(
    maps: Float[Tensor, "image prompt token"], nulls: Float[Tensor, "image null token"]
) -> Float[Tensor, "image prompt"]:
    """The share of each map's squared norm that is the same for every prompt: see the module.

    0 for a map that is zero everywhere.
    """
    maps, nulls = (_unit(each.double()) for each in (maps, nulls))
    cosine = (maps @ nulls.transpose(1, 2)).mean(-1).clamp(min=0)
    count = nulls.shape[1]
    among = nulls @ nulls.transpose(1, 2)
    own = (among.sum((1, 2)) - among.diagonal(dim1=1, dim2=2).sum(-1)) / (count * (count - 1))
    largest = torch.maximum(own[:, None], cosine)
    return torch.where(cosine > 0, cosine**2 / largest.clamp(min=1e-300), 0.0).clamp(max=1.0)


def says_nothing(text: str, unknown: Sequence[str]) -> bool:
    """Whether a prompt holds unknown words, and no known one that names anything."""
    dark = {word.lower() for word in unknown} | EMPTY_WORDS
    return bool(unknown) and all(w in dark for w in re.findall(r"[^\W_]+", text.lower()))


def _of_measures(changes: Mapping[str, float], share: float) -> Light:
    low, high = min(changes.values()), max(changes.values())
    if high < UNCHANGED:
        return _follows("no", "the map is the same for every prompt")
    state: State = "limited" if low < UNCHANGED or share > COMMON else "yes"
    text = f"changes by {low:.2f} to {high:.2f} under null prompts"
    return _follows(state, f"{text}; {share:.0%} of it is the same for every prompt")


def _between(maps: Float[Tensor, "image prompt token"], reason: str) -> Light:
    """Without null prompts: the maps of the prompts that were asked, held against each other."""
    if maps.shape[1] < 2:
        return _follows("not established", reason)
    most = float(change(maps[:, 1:], maps[:, 0]).max())
    if most < UNCHANGED:
        return _follows("no", f"the maps of {maps.shape[1]} prompts are the same")
    return _follows("not established", f"{reason}; the maps asked for differ by up to {most:.2f}")


def _follows(state: State, evidence: str) -> Light:
    return Light("follows the prompt", state, evidence)


def _partly_unknown(asked: Prompts, silent: Mapping[str, str]) -> list[str]:
    return [
        f"unknown words in {text!r}: {_named(words)}"
        for text, words in zip(asked.labels, asked.unknown, strict=False)
        if words and text not in silent
    ]


def _named(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words)


def _warnings(changes: Mapping[str, float], share: float | None) -> tuple[str, ...]:
    blind = [kind for kind, size in changes.items() if size < UNCHANGED]
    if blind and len(blind) == len(changes):
        return (
            f"This map is almost the same for any prompt (change below {UNCHANGED}); do not read "
            "it as evidence for yours.",
        )
    if blind:
        return (
            f"This map is almost the same for the {' and the '.join(blind)} prompt (change below "
            f"{UNCHANGED}).",
        )
    if share is not None and share > COMMON:
        return (
            f"{share:.0%} of this map is the same for every prompt (more than {COMMON:.0%}): look "
            "at how maps differ between prompts, or explain a difference (--score margin).",
        )
    return ()


def _unit(maps: Float[Tensor, "*batch token"]) -> Float[Tensor, "*batch token"]:
    return maps / maps.norm(dim=-1, keepdim=True).clamp(min=1e-300)
