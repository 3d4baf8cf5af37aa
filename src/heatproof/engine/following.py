"""Does a map follow its prompt? How much it changes under null prompts, and what stays the same.

The part of a map that is the same for every prompt is the mean of the maps of four references: the
unrelated null prompt, a random direction of the embeddings' space, and the opposites of both. A map
that turns its sign with the prompt has no such part. A map that ignores the prompt has no other. A
constant that a method adds to each map is found as it is, whatever else the map shows. Null prompts
alone cannot tell: their maps look alike, and what a map says of its own prompt may be like them, or
their opposite. With c that part, its share of a map m is |c|^2 / (|c|^2 + |m - c|^2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.certificate import Light, State
from heatproof.engine.inputs import Prompts
from heatproof.methods.base import Factors
from heatproof.methods.pass_context import Side
from heatproof.scores import Margin, Score
from heatproof.words import segments

# Prompts that say nothing about any image; an explanation should change under them.
NULL_PROMPTS = {
    "empty": "",
    "gibberish": "xqvz kjwprt fghlm",
    "unrelated": "the quarterly report of a shipping insurance company",
}
# The change (1 - cosine) below which two maps count as the same.
UNCHANGED = 0.01
# The largest share of a map that may be the same for every prompt without a warning.
COMMON = 1 / 3
# The mean change under null prompts below which a map is much like theirs.
SMALL = 1 / 3

# Words that name nothing that could be seen in one image and not in another.
EMPTY_WORDS = {
    *("a", "an", "the", "of", "and", "or", "to", "is", "are", "there", "this", "that", "with"),
    *("in", "on", "at", "no", "not", "my", "its", "photo", "picture", "image", "photograph"),
    *("something", "thing", "object"),
}


@dataclass(frozen=True, kw_only=True)
class Following:
    """How maps follow their prompts.

    Attributes:
        changes: the mean change under each kind of null prompt.
        common_share: the mean share of a map that is the same for every prompt.
        light: both, as one light of the certificate.
        warnings: what a user must know.
        says_nothing: prompts that the model cannot read, with the reason.
    """

    light: Light
    changes: dict[str, float] = field(default_factory=dict[str, float])
    common_share: float | None = None
    warnings: tuple[str, ...] = ()
    says_nothing: dict[str, str] = field(default_factory=dict[str, str])


def declared(prompts: Prompts, factors: Factors, side: Side) -> Following:
    """Return what is known before anything is measured."""
    silent = {
        text: f"{text!r} says nothing to this model: it does not know {_listed(words)}"
        for text, words in zip(prompts.labels, prompts.unknown, strict=False)
        if says_nothing(text, words)
    }
    if factors.substituted and factors.replaced == "everything":
        light = _light("no", "the map is not computed from the prompt")
    elif side == "text":
        light = _light("not applicable", "the values are of the prompt's own words")
    else:
        light = _light("not established", "not measured")
    return Following(light=light, says_nothing=silent)


def measured(
    known: Following,
    values: Float[Tensor, "image target token"],
    prompts: Prompts,
    nulls: Prompts | None,
    score: Score,
    why_no_nulls: str,
) -> Following:
    """Return how maps follow their prompts, beyond what is `known` without measuring.

    Args:
        values: maps of the prompts, then of the null prompts and of the `references` that stand
            beside the last of these, if there are any.
    """
    # Prompts that say nothing to the model are no evidence for or against the method.
    telling = [n for n, text in enumerate(prompts.labels) if text not in known.says_nothing]
    maps, null = values[:, telling], values[:, len(prompts.labels) :]
    changes: dict[str, float] = {}
    share = None
    if nulls is not None and telling:
        changes = {
            kind: float(change(maps, null[:, n]).mean()) for n, kind in enumerate(NULL_PROMPTS)
        }
        # A score that compares prompts (a margin, a contrast) puts the same other prompts into
        # every map, because that was asked for.
        if not (isinstance(score, Margin) or score.against):
            share = float(common_share(maps, null[:, len(NULL_PROMPTS) - 1 :]).mean())
    light = known.light
    if light.state == "not established" and telling:
        light = _measured_light(changes, share) if changes else _compared_light(maps, why_no_nulls)
    partly = _partly_unknown(prompts, known.says_nothing)
    if partly and light.state == "yes":
        light = _light("limited", f"{'; '.join(partly)}; {light.evidence}")
    return replace(
        known,
        changes=changes,
        common_share=share,
        light=light,
        warnings=_warnings(changes, share),
    )


def references(unrelated: Float[Tensor, " dim"]) -> Float[Tensor, "reference dim"]:
    """Return what stands beside the unrelated prompt's embedding: its opposite, a random direction
    of the same length, and the opposite of that."""
    drawn = torch.randn(len(unrelated), generator=torch.Generator().manual_seed(0))
    drawn = drawn.to(unrelated) / drawn.norm() * unrelated.norm()
    return torch.stack([-unrelated, drawn, -drawn])


def change(
    maps: Float[Tensor, "image prompt token"], null: Float[Tensor, "image token"]
) -> Float[Tensor, "image prompt"]:
    """Return 1 - cosine of each signed map to the null prompt's; 0 where both are zero."""
    null = null.unsqueeze(1)
    lengths = maps.norm(dim=-1) * null.norm(dim=-1)
    cosine = (maps * null).sum(-1) / lengths.clamp(min=torch.finfo(maps.dtype).tiny)
    both_zero = (maps.norm(dim=-1) == 0) & (null.norm(dim=-1) == 0)
    return torch.where(both_zero, torch.zeros_like(cosine), 1 - cosine)


def common_share(
    maps: Float[Tensor, "image prompt token"], references: Float[Tensor, "image reference token"]
) -> Float[Tensor, "image prompt"]:
    """Return the share of each map that is the same for every prompt (see the module), 0 to 1.

    It is 0 for a map that is zero everywhere.
    """
    common = references.double().mean(1, keepdim=True)
    own = (maps - common).square().sum(-1)
    common = common.square().sum(-1).expand_as(own)
    return torch.where(common > 0, common / (common + own), 0.0)


def says_nothing(text: str, unknown: Sequence[str]) -> bool:
    """Return whether a prompt holds unknown words, and no known one that names anything."""
    dark = {word.lower() for word in unknown} | EMPTY_WORDS
    words = (text[start:end].lower() for start, end in segments(text))
    return bool(unknown) and all(word in dark for word in words if any(map(str.isalnum, word)))


def _measured_light(changes: Mapping[str, float], share: float | None) -> Light:
    low, high = min(changes.values()), max(changes.values())
    if high < UNCHANGED:
        return _light("no", "the map is the same for every prompt")
    text = f"changes by {low:.2f} to {high:.2f} under null prompts"
    if share is None:
        return _light("limited" if low < UNCHANGED else "yes", text)
    alike = low < UNCHANGED or sum(changes.values()) < SMALL * len(changes)
    state: State = "limited" if alike or share > COMMON else "yes"
    return _light(state, f"{text}; {share:.0%} of it is the same for every prompt")


def _compared_light(maps: Float[Tensor, "image prompt token"], reason: str) -> Light:
    """Return the light without null prompts: the user's own prompts' maps are compared."""
    if maps.shape[1] < 2:
        return _light("not established", reason)
    most = float(change(maps[:, 1:], maps[:, 0]).max())
    if most < UNCHANGED:
        return _light("no", f"the maps of {maps.shape[1]} prompts are the same")
    return _light("not established", f"{reason}; the maps asked for differ by up to {most:.2f}")


def _light(state: State, evidence: str) -> Light:
    return Light("follows the prompt", state, evidence)


def _partly_unknown(prompts: Prompts, silent: Mapping[str, str]) -> list[str]:
    return [
        f"unknown words in {text!r}: {_listed(words)}"
        for text, words in zip(prompts.labels, prompts.unknown, strict=False)
        if words and text not in silent
    ]


def _listed(words: Sequence[str]) -> str:
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
    if share is None:
        return ()
    advice = "look at how maps differ between prompts, or explain a difference (--score margin)."
    if share > COMMON:
        text = f"{share:.0%} of this map is the same for every prompt (more than {COMMON:.0%})"
        return (f"{text}: {advice}",)
    if sum(changes.values()) < SMALL * len(changes):
        mean = sum(changes.values()) / len(changes)
        text = f"This map is much like those of null prompts (mean change {mean:.2f}, below"
        return (f"{text} {SMALL:.2f}): {advice}",)
    return ()
