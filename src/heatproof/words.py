"""Words of a prompt: where each one begins and ends, and which tokens belong to it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import regex

# Word boundaries of Unicode's UAX 29, by `regex`'s WORD flag.
_BOUNDARY = regex.compile(r"\b", regex.VERSION1 | regex.WORD)
# Thai, Lao, Khmer and Burmese are written without spaces; UAX 29 leaves their words to a dictionary
# and would cut at every letter. Without one, a run of them is one word.
_UNSPACED = regex.compile(r"\p{Line_Break=Complex_Context}[\p{Line_Break=Complex_Context}\p{M}]*")


class Spanned(Protocol):
    """A token that stands for characters `start` to `end` of a text."""

    @property
    def start(self) -> int:
        """Index of its first character."""
        ...

    @property
    def end(self) -> int:
        """Index after its last character."""
        ...


def segments(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each word, number, punctuation mark and symbol; no white space."""
    inside = {at for run in _UNSPACED.finditer(text) for at in range(run.start() + 1, run.end())}
    cuts = {match.start() for match in _BOUNDARY.finditer(text)} - inside
    ends = sorted({0, *cuts, len(text)})
    for start, end in pairwise(ends):
        if not text[start:end].isspace():
            yield start, end


def word_tokens(text: str, tokens: Sequence[Spanned]) -> list[tuple[int, int, list[int]]]:
    """Return start and end of each word that has tokens, and the indices of its tokens.

    If one token spans several words, they are one word here. No token belongs to two words; tokens
    of white space belong to none.
    """
    spelled = [_trimmed(text, token) for token in tokens]
    spans = sorted([*segments(text), *(span for span in spelled if span[0] < span[1])])
    words: list[tuple[int, int]] = []
    for start, end in spans:
        if words and start < words[-1][1]:
            words[-1] = (words[-1][0], max(end, words[-1][1]))
        else:
            words.append((start, end))
    inside = (
        [n for n, span in enumerate(spelled) if start <= span[0] < span[1] <= end]
        for start, end in words
    )
    return [(*word, numbers) for word, numbers in zip(words, inside, strict=True) if numbers]


def _trimmed(text: str, token: Spanned) -> tuple[int, int]:
    """Return a token's span without white space, which some tokenizers add to the next word."""
    letters = text[token.start : token.end]
    start = token.start + len(letters) - len(letters.lstrip())
    return start, max(start, token.end - len(letters) + len(letters.rstrip()))
