"""Turn prompts into token ids, and say which characters of the prompt each token stands for.

The ids are always those of the model's own tokenizer. The offsets are found beside it: cleaning is
followed character by character (`Traced`), so that they point into the prompt as the user wrote it.
"""

import difflib
import html
import re
import string
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile
from typing import Any

import ftfy
import torch
from jaxtyping import Int
from open_clip.tokenizer import (
    HFTokenizer,
    SigLipTokenizer,
    SimpleTokenizer,
    basic_clean,
    canonicalize_text,
)
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from heatproof.errors import PromptError
from heatproof.models.towers import Piece, Tokens
from heatproof.words import word_tokens

CLIP_VOCABULARY = 49408

Rows = Callable[[Int[Tensor, "prompt context"]], Int[Tensor, " prompt"]]
"""Readout row of each prompt; -1 where it is the mean over the prompt's tokens."""


def first_row(token: int, ids: Int[Tensor, "prompt context"]) -> Int[Tensor, " prompt"]:
    """Return the position of the first `token` of each prompt."""
    return (ids == token).int().argmax(dim=-1)


def same_row(row: int, ids: Int[Tensor, "prompt context"]) -> Int[Tensor, " prompt"]:
    """Return one position for every prompt."""
    return torch.full((len(ids),), row)


# Cleaning, followed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traced:
    """A text of which each character knows where it came from: `spans[i]` in the original."""

    text: str
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def original(cls, text: str) -> "Traced":
        """Return a text in which nothing was changed."""
        return cls(text, tuple((index, index + 1) for index in range(len(text))))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return what characters `start` to `end` of the cleaned text are in the original."""
        covered = self.spans[start:end]
        return min(first for first, _ in covered), max(last for _, last in covered)

    def substitute(self, pattern: str, replacement: Callable[[str], str]) -> "Traced":
        """Replace each match; the characters of a changed match all come from the whole match."""
        # Unchanged characters keep their places; those of a changed match share the whole match.
        text, spans, done = "", list[tuple[int, int]](), 0
        for match in re.finditer(pattern, self.text):
            new = replacement(match.group())
            text += self.text[done : match.start()] + new
            spans += self.spans[done : match.start()]
            spans += (
                self.spans[match.start() : match.end()]
                if new == match.group()
                else [self.span(match.start(), match.end())] * len(new)
            )
            done = match.end()
        return Traced(text + self.text[done:], (*spans, *self.spans[done:]))

    def become(self, text: str) -> "Traced":
        """Return the same text re-written as `text`, aligned by what both have in common."""
        if text == self.text:
            return self
        if not self.text:
            return Traced(text, ((0, 0),) * len(text))
        spans = list[tuple[int, int]]()
        for same, (start, end), (new_start, new_end) in _alignment(self.text, text):
            if same:
                spans += self.spans[start:end]
            else:
                # Inserted characters come from nowhere: the characters beside them stand for them.
                around = (start, end) if end > start else (max(0, start - 1), max(1, start))
                spans += [self.span(*around)] * (new_end - new_start)
        return Traced(text, tuple(spans))


_LONGEST_ALIGNED = 2000

Range = tuple[int, int]


def _alignment(old: str, new: str) -> Iterator[tuple[bool, Range, Range]]:
    """Yield ranges of `old` and `new`, in order, and whether they hold the same characters."""
    # Equal ends are cut off first: cleaning mostly changes a few characters in the middle.
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    middle, new_middle = old[head : len(old) - tail], new[head : len(new) - tail]
    yield True, (0, head), (0, head)
    if max(len(middle), len(new_middle)) > _LONGEST_ALIGNED:  # quadratic: align it as one block
        yield False, (head, len(old) - tail), (head, len(new) - tail)
    else:
        matcher = difflib.SequenceMatcher(a=middle, b=new_middle, autojunk=False)
        for tag, start, end, new_start, new_end in matcher.get_opcodes():
            yield tag == "equal", (head + start, head + end), (head + new_start, head + new_end)
    yield True, (len(old) - tail, len(old)), (len(new) - tail, len(new))


def _common(one: str, other: str) -> int:
    """Return the length of the longest common beginning."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


_CHARACTER_REFERENCE = r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)"


def _repaired(text: Traced) -> Traced:
    """Clean as open_clip's `basic_clean`, but for spaces at both ends: undo mojibake and HTML."""
    fixed = ftfy.fix_text(text.text)
    if "<" not in text.text:  # ftfy's own condition for undoing HTML itself
        text = text.substitute(_CHARACTER_REFERENCE, html.unescape)
    text = text.become(fixed)
    # open_clip unescapes twice, for what was escaped twice.
    for _ in range(2):
        text = text.substitute(_CHARACTER_REFERENCE, html.unescape)
    return text


def _single_spaces(text: Traced) -> Traced:
    lead = len(text.text) - len(text.text.lstrip())
    kept = len(text.text.rstrip())
    stripped = Traced(text.text.strip(), text.spans[lead:kept])
    return stripped.substitute(r"\s+", lambda _: " ")


def _lower(text: Traced) -> Traced:
    spans = [
        span
        for letter, span in zip(text.text, text.spans, strict=True)
        for _ in letter.lower()  # one letter may become two
    ]
    return Traced(text.text.lower(), tuple(spans))


def _without_punctuation(text: Traced) -> Traced:
    text = text.substitute("_", lambda _: " ")
    return text.substitute(f"[{re.escape(string.punctuation)}]", lambda _: "")


def _traced(prompt: str, cleaned: str) -> Traced:
    """Return `cleaned` with each character's place in `prompt`.

    open_clip's ways of cleaning are followed exactly; what another one did is aligned.
    """
    repaired = _repaired(Traced.original(prompt))
    candidates = (
        Traced.original(prompt),
        _lower(_single_spaces(repaired)),
        _single_spaces(repaired),
        _single_spaces(_lower(_without_punctuation(repaired))),
    )
    # Most prompts are plain: the first way that gives the very text is the one that was taken.
    exact = (text for text in candidates if text.text == cleaned)
    return next(exact, None) or candidates[0].become(cleaned)


# Tokenizers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """Stands where a tokenizer should: prompts are refused with `reason`, token ids are not."""

    reason: str


@lru_cache
def clip_tokenizer(context: int) -> SimpleTokenizer:
    """Return CLIP's own tokenizer, which comes with open_clip."""
    return SimpleTokenizer(context_length=context)


def usual_tokenizer(vocabulary: int, context: int) -> SimpleTokenizer | Missing:
    """Return CLIP's own tokenizer for a vocabulary of its size, else why there is none."""
    if vocabulary == CLIP_VOCABULARY:
        return clip_tokenizer(context)
    return Missing(
        f"the model came without a tokenizer for its {vocabulary} tokens; "
        "pass wrap(..., tokenizer=...) or token ids"
    )


Located = tuple[int, int, int]
"""A token and the characters of the cleaned prompt that it stands for: id, start, end."""


def _located(tokenizer: Any, prompt: str) -> tuple[Traced, Iterable[Located]]:
    """Return the cleaned prompt, and all its tokens but the special ones."""
    if isinstance(tokenizer, SimpleTokenizer):
        cleaned = tokenizer.clean_fn(prompt)
        return _traced(prompt, cleaned), _byte_pairs(tokenizer, cleaned)
    if hasattr(tokenizer, "pieces"):  # one that says it by itself
        return Traced.original(prompt), tokenizer.pieces(prompt)
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    cleaned = _cleaned(tokenizer, prompt)
    if getattr(inner, "is_fast", False):
        return _traced(prompt, cleaned), _hugging_face_tokens(inner, cleaned)
    return Traced.original(prompt), []


def _cleaned(tokenizer: Any, prompt: str) -> str:
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.clean_fn(prompt)
    if isinstance(tokenizer, SigLipTokenizer):
        return canonicalize_text(basic_clean(prompt))
    return prompt


def _byte_pairs(tokenizer: SimpleTokenizer, cleaned: str) -> Iterator[Located]:
    """Yield CLIP's tokens. They are runs of bytes: one character may lie in several tokens."""
    for match in tokenizer.pat.finditer(cleaned):
        # One owner per byte, for a token may end inside a character.
        owners = [
            match.start() + index
            for index, letter in enumerate(match.group())
            for _ in letter.encode()
        ]
        encoded = "".join(tokenizer.byte_encoder[byte] for byte in match.group().encode())
        done = 0
        for pair in tokenizer.bpe(encoded).split(" "):
            size = len(pair.removesuffix("</w>"))
            covered = owners[done : done + size]
            yield tokenizer.encoder[pair], covered[0], covered[-1] + 1
            done += size


def _hugging_face_tokens(tokenizer: Any, cleaned: str) -> list[Located]:
    encoded = tokenizer(
        cleaned, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    return [
        (token, start, end)
        for token, (start, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True)
    ]


def _placed(row: list[int], tokens: list[Located]) -> tuple[int, int]:
    """Return where in a row of ids the prompt's tokens begin, and how many of them it holds."""

    def held(first: int) -> int:
        pairs = zip(row[first:], tokens, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1][0], pairs))

    # Gemma's padding is on the left.
    padding = sum(1 for _ in takewhile(lambda token: token == row[0], row))
    # The start at which most of the prompt's tokens stand in the row, one after another.
    first = max((*range(_MOST_LEADING), *range(padding, padding + _MOST_LEADING)), key=held)
    return first, held(first)


_MOST_LEADING = 3  # begin of text, a language: nothing known puts more before a prompt


# Tokens ------------------------------------------------------------------------------------------

# Fast tokenizers keep truncation and padding as their own state, set by each call: two threads that
# share one would cut each other's prompts.
_tokenizing = threading.RLock()


@dataclass(frozen=True)
class Codec:
    """A text tower's way from prompts to `Tokens`: its tokenizer, and what it takes.

    `context` is the number of ids of a prompt, `vocabulary` the number of ids there are. `special`
    are the model's start, end and padding ids: raw ids are told from words by them where there is
    no tokenizer.
    """

    tokenizer: Any
    context: int
    vocabulary: int
    readout: Rows
    special: frozenset[int] = frozenset()

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """Return the prompts as the model takes them. An empty one is allowed."""
        if isinstance(self.tokenizer, Missing):
            raise PromptError(self.tokenizer.reason)
        texts = tuple(_checked(prompt) for prompt in prompts)
        # See `_tokenizing`: a tokenizer that is shared by threads is not safe by itself.
        with _tokenizing:
            return self._tokenized(texts)

    def _tokenized(self, texts: tuple[str, ...]) -> Tokens:
        ids = self._ids(list(texts))
        rows, readout = ids.tolist(), self.readout(ids)
        placed = [self._pieces(text, row) for text, row in zip(texts, rows, strict=True)]
        pieces = tuple(own for own, _ in placed)
        special = _control_ids(self.tokenizer)
        controls = [
            [piece for piece in own if row[piece.position] in special]
            for own, row in zip(pieces, rows, strict=True)
        ]
        return Tokens(
            ids=ids,
            readout=readout,
            texts=texts,
            pieces=pieces,
            cut=tuple(cut for _, cut in placed),
            control=tuple(tuple(piece.text for piece in own) for own in controls),
            unread=tuple(
                _unread(text, own, [piece.position for piece in control], last)
                for text, own, control, last in zip(
                    texts, pieces, controls, readout.tolist(), strict=True
                )
            ),
            unknown=tuple(
                tuple(_unknown_words(self.tokenizer, text, own, row))
                for text, own, row in zip(texts, pieces, rows, strict=True)
            ),
        )

    def _ids(self, texts: list[str]) -> Int[Tensor, "prompt context"]:
        if not texts:
            return torch.zeros(0, self.context, dtype=torch.long)
        if isinstance(self.tokenizer, PreTrainedTokenizerBase):
            return self.tokenizer(
                texts,
                max_length=self.context,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            ).input_ids
        return self.tokenizer(texts)

    def _pieces(self, prompt: str, row: list[int]) -> tuple[tuple[Piece, ...], str]:
        text, tokens = _located(self.tokenizer, prompt)
        found = list(islice(tokens, len(row) + 1))
        first, held = _placed(row, found)
        pieces = list[Piece]()
        for position, (_, start, end) in enumerate(found[:held], first):
            span = text.span(start, end)
            pieces.append(Piece(position, prompt[slice(*span)], *span))
        dropped = found[held:]
        cut = prompt[text.span(*dropped[0][1:])[0] :] if dropped else ""
        return tuple(pieces), cut

    def from_ids(self, ids: Int[Tensor, "prompt context"]) -> Tokens:
        """Return raw ids as they are. Their pieces point into the text that the ids spell."""
        self._check(ids)
        ids = ids.long().cpu()
        spelled = [self._spelled(row) for row in ids.tolist()]
        return Tokens(
            ids=ids,
            readout=self.readout(ids),
            texts=tuple(text for text, _ in spelled),
            pieces=tuple(pieces for _, pieces in spelled),
            cut=("",) * len(ids),
        )

    def _check(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.is_floating_point() or ids.shape[1] != self.context:
            raise PromptError(
                f"got token ids of shape {tuple(ids.shape)} and type {ids.dtype}, expected "
                f"integers of shape (prompt, {self.context}), padded as the model's tokenizer does"
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary:
            raise PromptError(
                f"got token ids from {int(ids.min())} to {int(ids.max())}, "
                f"expected 0 to {self.vocabulary - 1}; was another tokenizer used?"
            )

    def _spelled(self, row: list[int]) -> tuple[str, tuple[Piece, ...]]:
        text, pieces = "", list[Piece]()
        for position, spelling in self._spellings(row):
            text += spelling
            letters = spelling.strip()
            start = len(text) - len(spelling.lstrip())
            if letters:
                pieces.append(Piece(position, letters, start, start + len(letters)))
        return text.rstrip(), tuple(pieces)

    def _spellings(self, row: list[int]) -> Iterator[tuple[int, str]]:
        """Yield each token that stands for text: its position, and its text with spaces."""
        if hasattr(self.tokenizer, "eot_token_id"):  # CLIP's, and those made after it
            final = self.tokenizer.eot_token_id
            space = "" if isinstance(self.tokenizer, SimpleTokenizer) else " "
            for position, token in enumerate(row[: row.index(final) if final in row else None]):
                if token not in self.tokenizer.all_special_ids:
                    yield position, self.tokenizer.decode([token]) + space
            return
        inner = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        if isinstance(inner, PreTrainedTokenizerBase):
            for position, token in enumerate(row):
                if token not in inner.all_special_ids:
                    yield position, _spelling(inner, token)
            return
        padding = sum(1 for _ in takewhile(lambda token: token == row[-1], reversed(row)))
        for position, token in enumerate(row[: len(row) - (padding if padding > 1 else 0)]):
            if token not in self.special:
                yield position, f"[{token}] "


def _control_ids(tokenizer: Any) -> set[int]:
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    ids: list[int] = getattr(inner, "all_special_ids", [])
    return {token for token in ids if token != _unknown_id(tokenizer)}


def _unknown_id(tokenizer: Any) -> int | None:
    """Return the one id of all words in no vocabulary; None for byte-level tokenizers."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    token = getattr(inner, "unk_token_id", None)
    # CLIP's Hugging Face tokenizer names its end of text here, which its bytes never need.
    if token is not None and token == getattr(inner, "eos_token_id", None):
        return None
    return getattr(inner, "unknown_token_id", None) if token is None else token


def _unread(text: str, pieces: Sequence[Piece], control: Sequence[int], readout: int) -> str:
    """Return what follows the readout where a token of the prompt, at `control`, became it."""
    if readout not in control:
        return ""
    behind = [piece.start for piece in pieces if piece.position > readout]
    return text[min(behind) :] if behind else ""


def _unknown_words(
    tokenizer: Any, text: str, pieces: Sequence[Piece], row: Sequence[int]
) -> Iterator[str]:
    token = _unknown_id(tokenizer)
    for start, end, tokens in word_tokens(text, pieces):
        if any(row[pieces[index].position] == token for index in tokens):
            yield text[start:end]


def _spelling(tokenizer: Any, token: int) -> str:
    raw: str = tokenizer.convert_ids_to_tokens(token)
    marked = raw.replace("\u2581", " ").replace("\u0120", " ")  # sentencepiece's, byte-level BPE's
    return marked.removeprefix("##").removesuffix("</w>")


def _checked(prompt: object) -> str:
    if not isinstance(prompt, str):
        raise PromptError(f"got a prompt of type {type(prompt).__name__}, expected text")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise PromptError(
            f"got a prompt that is no valid Unicode text ({ascii(prompt)[:60]}); try it re-typed"
        ) from None
    return prompt
