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
from typing import Any

import numpy as np
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

STATES: tuple[State, ...] = ("no", "limited", "yes")

# Words that name nothing that could be seen in one image and not in another.
EMPTY_WORDS = {
    *("a", "an", "the", "of", "and", "or", "to", "is", "are", "there", "this", "that", "with"),
    *("in", "on", "at", "no", "not", "my", "its", "photo", "picture", "image", "photograph"),
    *("something", "thing", "object"),
}


@dataclass(frozen=True, kw_only=True)
class Following:
    """How some maps follow their prompts.

    Attributes:
        light: the worst of these maps, as one light of the certificate.
        changes: the mean change under each kind of null prompt.
        common_share: the mean share of a map that is the same for every prompt.
        warnings: what a user must know.
        says_nothing: prompts that the model cannot read, with the reason.
    """

    light: Light
    changes: dict[str, float] = field(default_factory=dict[str, float])
    common_share: float | None = None
    warnings: tuple[str, ...] = ()
    says_nothing: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class PromptTracking:
    """How each map follows its prompt.

    Attributes:
        light: what is known before anything is measured.
        labels: the prompts.
        says_nothing: prompts that the model cannot read, with the reason.
        partly_unknown: prompts of which it does not know some words, with these.
        changes: the change under each kind of null prompt; empty where there are none.
        shares: the share of each map that is the same for every prompt; None if not measured.
        differences: the largest change from an image's first map to its others, where there are no
            null prompts; None with a single prompt.
        reason: why there are no null prompts.
    """

    light: Light
    labels: tuple[str, ...] = ()
    says_nothing: dict[str, str] = field(default_factory=dict[str, str])
    partly_unknown: dict[str, str] = field(default_factory=dict[str, str])
    changes: dict[str, Float[np.ndarray, "image prompt"]] = field(default_factory=dict[str, Any])
    shares: Float[np.ndarray, "image prompt"] | None = None
    differences: Float[np.ndarray, " image"] | None = None
    reason: str = ""

    def select(self, images: Sequence[int], prompts: Sequence[int]) -> Following:
        """Return how the maps of these images and prompts follow: the worst of them."""
        texts = [self.labels[number] for number in prompts]
        silent = {text: self.says_nothing[text] for text in texts if text in self.says_nothing}
        # Prompts that say nothing to the model are no evidence for or against the method.
        telling = [number for number in prompts if self.labels[number] not in silent]
        light, warnings = self.light, tuple[str, ...]()
        changes, share = dict[str, float](), None
        measures = light.state == "not established"
        if self.changes and telling:
            maps = _Maps(self.changes, self.shares, images, telling)
            changes, share, warnings = maps.mean_changes, maps.mean_share, maps.warnings
            light = maps.light if measures else light
        elif measures and telling and self.reason:
            light = self._compared_light(images, telling)
        partly = [self.partly_unknown[text] for text in texts if text in self.partly_unknown]
        if partly and light.state in ("yes", "limited"):
            light = _light("limited", f"{'; '.join(partly)}; {light.evidence}")
        return Following(
            light=light,
            changes=changes,
            common_share=share,
            warnings=warnings,
            says_nothing=silent,
        )

    def _compared_light(self, images: Sequence[int], prompts: Sequence[int]) -> Light:
        """Return the light without null prompts: the user's own prompts' maps are compared."""
        if self.differences is None:
            return _light("not established", self.reason)
        differences = self.differences[list(images)]
        same = int((differences < UNCHANGED).sum())
        if same:
            which = "" if same == len(images) else f"{same} of {len(images)} images: "
            return _light("no", f"{which}the maps of {len(prompts)} prompts are the same")
        most = f"the maps asked for differ by up to {differences.max():.2f}"
        return _light("not established", f"{self.reason}; {most}")


def declared(prompts: Prompts, factors: Factors, side: Side) -> PromptTracking:
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
    return PromptTracking(light=light, labels=prompts.labels, says_nothing=silent)


def measured(
    known: PromptTracking,
    values: Float[Tensor, "image target token"],
    prompts: Prompts,
    nulls: Prompts | None,
    score: Score,
    why_no_nulls: str,
) -> PromptTracking:
    """Return how maps follow their prompts, beyond what is `known` without measuring.

    Args:
        values: maps of the prompts, then of the null prompts and of the `references` that stand
            beside the last of these, if there are any.
    """
    count = len(prompts.labels)
    maps, null = values[:, :count], values[:, count:]
    known = replace(known, partly_unknown=_partly_unknown(prompts, known.says_nothing))
    if nulls is None:
        # Of prompts without known words the maps may well be the same.
        telling = [n for n, text in enumerate(prompts.labels) if text not in known.says_nothing]
        some, differences = maps[:, telling], None
        if len(telling) > 1:
            differences = change(some[:, 1:], some[:, 0]).amax(1).cpu().numpy()
        return replace(known, differences=differences, reason=why_no_nulls)
    shares = None
    # A score that compares prompts (a margin, a contrast) puts the same other prompts into
    # every map, because that was asked for.
    if not (isinstance(score, Margin) or score.against):
        shares = common_share(maps, null[:, len(NULL_PROMPTS) - 1 :]).cpu().numpy()
    changes = {kind: change(maps, null[:, n]).cpu().numpy() for n, kind in enumerate(NULL_PROMPTS)}
    return replace(known, changes=changes, shares=shares)


def join(parts: Sequence[PromptTracking]) -> PromptTracking:
    """Return what was measured of several batches of images, one behind the other."""
    first = parts[0]
    shares = [part.shares for part in parts if part.shares is not None]
    differences = [part.differences for part in parts if part.differences is not None]
    return replace(
        first,
        changes={
            kind: np.concatenate([part.changes[kind] for part in parts]) for kind in first.changes
        },
        shares=np.concatenate(shares) if shares else None,
        differences=np.concatenate(differences) if differences else None,
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


class _Maps:
    """The measures of some maps, and the state of the worst of them."""

    def __init__(
        self,
        changes: Mapping[str, Float[np.ndarray, "image prompt"]],
        shares: Float[np.ndarray, "image prompt"] | None,
        images: Sequence[int],
        prompts: Sequence[int],
    ) -> None:
        rows = np.ix_(list(images), list(prompts))
        self.kinds = tuple(changes)
        self.changes = np.stack([table[rows].ravel() for table in changes.values()])
        self.shares = None if shares is None else shares[rows].ravel()
        low, high, mean = self.changes.min(0), self.changes.max(0), self.changes.mean(0)
        limited = low < UNCHANGED
        if self.shares is not None:
            limited |= (mean < SMALL) | (self.shares > COMMON)
        states = np.where(high < UNCHANGED, 0, np.where(limited, 1, 2))
        self.state: State = STATES[int(states.min())]
        # The maps in that state, and among them the one that changes least.
        self.rows = np.flatnonzero(states == states.min())
        self.worst = self.rows[mean[self.rows].argmin()]
        whole = len(self.rows) == len(states) or self.state == "yes"
        self.which = "" if whole else f"{len(self.rows)} of {len(states)} maps: "

    @property
    def mean_changes(self) -> dict[str, float]:
        """The mean change over all maps, by kind of null prompt."""
        means = self.changes.mean(1).tolist()
        return dict(zip(self.kinds, means, strict=True))

    @property
    def mean_share(self) -> float | None:
        return None if self.shares is None else float(self.shares.mean())

    @property
    def light(self) -> Light:
        if self.state == "no":
            return _light("no", f"{self.which}the map is the same for every prompt")
        changes = self.changes[:, self.rows]
        text = f"changes by {changes.min():.2f} to {changes.max():.2f} under null prompts"
        if self.shares is not None:
            share = float(self.shares[self.rows].max())
            text = f"{text}; {share:.0%} of it is the same for every prompt"
        return _light(self.state, f"{self.which}{text}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user must know of the worst map."""
        changes = dict(zip(self.kinds, self.changes[:, self.worst].tolist(), strict=True))
        share = None if self.shares is None else float(self.shares[self.worst])
        return tuple(f"{self.which}{text}" for text in _warnings(changes, share))


def _light(state: State, evidence: str) -> Light:
    return Light("follows the prompt", state, evidence)


def _partly_unknown(prompts: Prompts, silent: Mapping[str, str]) -> dict[str, str]:
    return {
        text: f"unknown words in {text!r}: {_listed(words)}"
        for text, words in zip(prompts.labels, prompts.unknown, strict=False)
        if words and text not in silent
    }


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
