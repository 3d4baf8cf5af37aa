"""A tokenizer of whole words, through the interface of open_clip's tokenizers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

PAD, UNKNOWN, START = "<pad>", "<unknown>", "<start_of_text>"
END = "<end_of_text>"

# fmt: off
WORDS: Final = (
    "small", "large", "plain", "striped", "dotted",
    "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink",
    "circle", "square", "triangle", "star", "cross", "ring", "heart", "moon",
    "a", "an", "the", "of", "and", "to", "is", "there", "with", "in", "on", "no", "not",
    "left", "right", "above", "below",
    "photo", "picture", "image", "something", "thing", "object", "shape", "nothing", "background",
)
# fmt: on

# End of text has the highest id of all, since open_clip pools the text where the id is highest.
VOCABULARY: Final = (PAD, UNKNOWN, START, *WORDS, *(f"<spare_{i}>" for i in range(5)), END)

_WORD = re.compile(r"[^\W_]+")


class SceneTokenizer:
    """Text to ids: one id a word, one shared id for every word it does not know.

    Case and punctuation are ignored. A text longer than the context loses its last words,
    never its end-of-text.
    """

    def __init__(self, context_length: int = 20) -> None:
        self.context_length = context_length
        self.vocab_size = len(VOCABULARY)
        self.encoder = {word: index for index, word in enumerate(VOCABULARY)}
        self.pad_token_id = self.encoder[PAD]
        self.unknown_token_id = self.encoder[UNKNOWN]
        self.sot_token_id = self.encoder[START]
        self.eot_token_id = self.encoder[END]
        self.all_special_ids = [self.sot_token_id, self.eot_token_id]

    def pieces(self, text: str) -> list[tuple[int, int, int]]:
        """Return (token id, start, end) of each word; start and end are offsets into `text`."""
        return [
            (self.encoder.get(m.group().lower(), self.unknown_token_id), m.start(), m.end())
            for m in _WORD.finditer(text)
        ]

    def encode(self, text: str) -> list[int]:
        """Return the ids of the words, without start and end of text."""
        return [token for token, _, _ in self.pieces(text)]

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """Return the words of the ids, joined by spaces; padding is left out."""
        ids = [int(token) for token in tokens]
        return " ".join(VOCABULARY[token] for token in ids if token != self.pad_token_id)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Return ids (text, context), int64, padded with zeros after the end of text."""
        import torch

        length = context_length or self.context_length
        rows = [texts] if isinstance(texts, str) else list(texts)
        out = torch.zeros(len(rows), length, dtype=torch.int64)
        for row, text in zip(out, rows, strict=True):
            ids = [self.sot_token_id, *self.encode(text)[: length - 2], self.eot_token_id]
            row[: len(ids)] = torch.tensor(ids)
        return out
