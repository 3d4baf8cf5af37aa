"""Words of a prompt by Unicode's rules, and which tokens lie in each."""

from dataclasses import dataclass

import open_clip
import pytest
import torch

import heatproof
from heatproof.engine.api import merge
from heatproof.models.tokenizers import CLIP_VOCABULARY, Codec, Missing, clip_tokenizer
from heatproof.models.towers import Piece, Tokens
from heatproof.words import segments, word_tokens


@dataclass(frozen=True)
class Letters:
    start: int
    end: int


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't it\u2019s 3.14 1,000 a_b x1234", "don't it\u2019s 3.14 1,000 a_b x1234"),
        ("a cat, red", "a cat , red"),
        # Vowel marks belong to their letters: Hindi, Thai, vocalised Arabic, a combining accent.
        ("\u0915\u093f\u0924\u093e\u092c \u0939\u093f\u0928\u094d\u0926\u0940",) * 2,
        ("\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0e20\u0e49\u0e33",) * 2,
        ("\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627 \u0628\u0650\u0643",) * 2,
        ("cafe\u0301 x",) * 2,
        ("\u1019\u103c\u1014\u103a\u1019\u102c x",) * 2,
        # No spaces: one Han character a word, a run of katakana one word.
        ("\u732b\u3068\u72ac\u30ab\u30bf", "\u732b \u3068 \u72ac \u30ab\u30bf"),
        ("\ud55c\uad6d\uc5b4 x",) * 2,
        # Each emoji by itself, with all of its parts.
        ("\U0001f436\U0001f431", "\U0001f436 \U0001f431"),
        (
            "\U0001f469\u200d\U0001f467\U0001f44d\U0001f3fd",
            "\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd",
        ),
        ("\U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7 \U0001f1e9\U0001f1ea"),
        ("  \t\n ", ""),
        ("", ""),
    ],
)
def test_words_are_cut_where_unicode_says(text: str, words: str) -> None:
    assert [text[slice(*span)] for span in segments(text)] == words.split()


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [
        ("a ... b", ["a", "...", "b"], ["a", "...", "b"]),
        ("{} {x}", ["{}", "{", "x", "}"], ["{}", "{", "x", "}"]),
        ("ab cd", ["ab cd"], ["ab cd"]),
        ("\U0001f436\U0001f431", ["\U0001f436\U0001f431"], ["\U0001f436\U0001f431"]),
        ("unbelievable", ["unbe", "liev", "able"], ["unbelievable"]),
        ("it's", ["it", "'s"], ["it's"]),
        ("a   dog", ["a", "  ", " dog"], ["a", "dog"]),
        ("cut off", ["cut"], ["cut"]),
    ],
)
def test_a_word_reaches_as_far_as_its_tokens(
    text: str, tokens: list[str], words: list[str]
) -> None:
    spans, at = [], 0
    for token in tokens:
        start = text.index(token, at)
        at = start + len(token)
        spans.append(Letters(start, at))
    found = word_tokens(text, spans)
    assert [text[start:end] for start, end, _ in found] == words
    inside = [index for _, _, indices in found for index in indices]
    assert inside == [n for n, token in enumerate(tokens) if token.strip()]


def test_each_byte_of_a_character_counts_to_its_word() -> None:
    pieces = [Piece(1, "\U0001f9ff", 0, 1), Piece(2, "\U0001f9ff", 0, 1), Piece(3, "x", 2, 3)]
    words = list(merge("\U0001f9ff x", pieces, torch.tensor([1.0, 2.0, 4.0])))
    assert [(word.text, word.value) for word in words] == [("\U0001f9ff", 3.0), ("x", 4.0)]


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo... of {} \U0001f436\U0001f431!!",
        "\u0915\u093f\u0924\u093e\u092c \u732b\u3068\u72ac",
        "Tom &amp; Jerry",
    ],
)
def test_every_token_of_clip_s_lies_in_one_word_that_shows_all_of_it(prompt: str) -> None:
    tokens = _clip().tokenize([prompt])
    (pieces,) = tokens.pieces
    words = list(merge(prompt, pieces, torch.ones(len(pieces))))
    assert sum(word.value for word in words) == len(pieces)
    shown = "".join(word.text for word in words)
    assert shown == "".join(prompt.split())


# What the model does not read as it stands there ---------------------------------------------


def _clip(tokenizer: object = None) -> Codec:
    return Codec(
        clip_tokenizer(77) if tokenizer is None else tokenizer,
        77,
        CLIP_VOCABULARY,
        lambda ids: ids.argmax(-1),
        frozenset((CLIP_VOCABULARY - 2, CLIP_VOCABULARY - 1)),
    )


def test_text_behind_a_literal_end_of_text_is_said_to_be_unread() -> None:
    tokens = _clip().tokenize(["a dog <end_of_text> and a cat", "a dog", "<start_of_text> a"])
    assert tokens.control == (("<end_of_text>",), (), ("<start_of_text>",))
    assert tokens.unread == ("and a cat", "", "")
    assert tokens.cut == ("", "", "")


def test_the_notice_names_the_control_token_and_what_is_not_read() -> None:
    model = heatproof.wrap(
        open_clip.model.CLIP(
            16,
            {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
            {"vocab_size": CLIP_VOCABULARY, "width": 64, "heads": 1, "layers": 1},
        ).eval()
    )
    pixels = torch.zeros(1, 3, 16, 16)
    prompts = ["a dog", "a dog <end_of_text> and a cat"]
    found = heatproof.explain(model, pixels, prompts, certify=False)
    (notice,) = [n for n in found.record.notices if "control" in n]
    assert "<end_of_text>" in notice
    assert "'and a cat'" in notice
    torch.testing.assert_close(found.scores[:, 0], found.scores[:, 1])  # it is not read, indeed


def test_unknown_words_are_named() -> None:
    model = heatproof.load("scenes")
    pixels = torch.zeros(1, 3, 64, 64)
    found = heatproof.explain(
        model, pixels, ["a red circle", "a dog", "a spaceship, a dog"], certify=False
    )
    notices = [n for n in found.record.notices if "does not know" in n]
    assert ["'dog'" in n and "'a'" not in n for n in notices] == [True, True]
    assert "'spaceship'" in notices[1]
    # They are one token to the model, so the maps cannot differ.
    prompts = heatproof.explain(model, pixels, ["a dog", "a spaceship"], certify=False)
    torch.testing.assert_close(prompts.maps[:, 0], prompts.maps[:, 1])


def test_bytes_make_no_unknown_words() -> None:
    assert _clip().tokenize(["\U0001f9ff qzxv \u0915\u093f"]).unknown == ((),)


def test_without_a_tokenizer_start_and_end_are_no_words() -> None:
    ids = open_clip.tokenize(["a photo of a dog"])
    assert _texts(_clip().from_ids(ids)) == ["a", "photo", "of", "a", "dog"]
    bare = _clip(Missing("no tokenizer")).from_ids(ids)
    assert _texts(bare) == [f"[{int(token)}]" for token in ids[0, 1:6]]
    assert [piece.position for piece in bare.pieces[0]] == [1, 2, 3, 4, 5]


def _texts(tokens: Tokens) -> list[str]:
    return [piece.text for piece in tokens.pieces[0]]
