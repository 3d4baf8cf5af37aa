"""Tokens, and the characters of the user's own prompt that they stand for."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from heatproof.errors import PromptError
from heatproof.models.tokenizers import (
    CLIP_VOCABULARY,
    Codec,
    Missing,
    Traced,
    _checked,
    clip_tokenizer,
)


def codec(tokenizer: Any = None, context: int = 77, vocabulary: int = CLIP_VOCABULARY) -> Codec:
    tokenizer = clip_tokenizer(context) if tokenizer is None else tokenizer
    return Codec(tokenizer, context, vocabulary, lambda ids: ids.argmax(-1))


AWKWARD = [
    "a photo of a dog",
    "  A   Photo\tof\na DOG ",
    "Tom &amp; Jerry",
    "fish &lt;3 &#38; chips",
    "caf\u00e9 cre\u0300me, na\u00efve",
    "\u732b\u3068\u72ac",
    "a \U0001f436 in \U0001f1eb\U0001f1f7!",
    "\U0001f469\u200d\U0001f467 two",
    "don't it's we'll",
    "\u201cquoted\u201d \u2014 dash\u2026",
    "schoenâ€™s caf\u00c3\u00a9",
    "\ufb01sh \uff26\uff55\uff4c\uff4c",
    "\u0130stanbul \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
    "x1234 3.14 a_b <end_of_text> !!!",
    "supercalifragilisticexpialidocious",
    "a&b &copy &notit; &nosuch;",
]


# CLIP's tokenizer --------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", AWKWARD)
def test_ids_are_the_tokenizer_s_own(prompt: str) -> None:
    tokens = codec().tokenize([prompt])
    assert torch.equal(tokens.ids, open_clip.tokenize([prompt]))
    assert tokens.texts == (prompt,)


@pytest.mark.parametrize("prompt", AWKWARD)
def test_each_token_has_its_piece_and_each_visible_character_lies_in_one(prompt: str) -> None:
    tokens = codec().tokenize([prompt])
    (pieces,), (row,) = tokens.pieces, tokens.ids.tolist()
    assert [row[piece.position] for piece in pieces] == clip_tokenizer(77).encode(prompt)
    covered = {at for piece in pieces for at in range(piece.start, piece.end)}
    assert {at for at, letter in enumerate(prompt) if not letter.isspace()} <= covered
    assert all(piece.text == prompt[piece.start : piece.end] for piece in pieces)
    assert all(piece.text and piece.text == piece.text.strip() for piece in pieces)
    starts = [piece.start for piece in pieces]
    assert starts == sorted(starts)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("  A   Photo\tof", ["A", "Photo", "of"]),
        ("Tom &amp; Jerry", ["Tom", "&amp;", "Jerry"]),
        ("don't", ["don", "'t"]),
        ("caf\u00e9", ["caf\u00e9"]),
        ("cafe\u0301 x", ["cafe\u0301", "x"]),
        ("\u201cdog\u201d", ["\u201c", "dog", "\u201d"]),
        ("DOG&#33;", ["DOG", "&#33;"]),
        ("dogdogs", ["dog", "dogs"]),
        ("\u0130x", ["\u0130", "\u0130", "x"]),
    ],
)
def test_pieces_are_the_prompt_s_own_characters(prompt: str, pieces: list[str]) -> None:
    assert [piece.text for piece in codec().tokenize([prompt]).pieces[0]] == pieces


def test_a_character_of_several_tokens_is_whole_in_each() -> None:
    (pieces,) = codec().tokenize(["\U0001f9ff"]).pieces
    assert len(pieces) > 1
    assert {(piece.text, piece.start, piece.end) for piece in pieces} == {("\U0001f9ff", 0, 1)}


def test_what_lies_beyond_the_context_is_cut_and_told() -> None:
    prompt = "one two three  four, five six"
    tokens = codec(context=6).tokenize([prompt, "one two"])
    assert [piece.text for piece in tokens.pieces[0]] == ["one", "two", "three", "four"]
    assert tokens.cut == (", five six", "")
    assert tokens.readout.tolist() == [5, 3]
    assert [piece.position for piece in tokens.pieces[1]] == [1, 2]


def test_an_empty_prompt_has_no_pieces_and_is_allowed() -> None:
    tokens = codec().tokenize(["", "   "])
    assert tokens.pieces == ((), ())
    assert tokens.cut == ("", "")
    assert tokens.readout.tolist() == [1, 1]


def test_no_prompts_make_no_rows() -> None:
    assert codec(context=9).tokenize([]).ids.shape == (0, 9)


def test_a_long_garbled_prompt_is_aligned_as_one_block() -> None:
    """Alignment is quadratic: character by character this would take minutes."""
    prompt = "one " + "caf\u00c3\u00a9 \u201cx\u201d " * 2_000 + "two"
    (pieces,) = codec().tokenize([prompt]).pieces
    assert pieces[0].text == "one"
    assert len(pieces) == 75


@pytest.mark.parametrize(("prompt", "says"), [("\ud800", "Unicode"), (7, "type int")])
def test_what_is_no_text_is_refused(prompt: Any, says: str) -> None:
    with pytest.raises(PromptError, match=says) as error:
        _checked(prompt)
    assert "\n" not in str(error.value)


# Raw ids -----------------------------------------------------------------------------------------


def test_raw_ids_spell_their_text() -> None:
    ids = open_clip.tokenize(["A photo, of cats !"])
    tokens = codec().from_ids(ids)
    assert torch.equal(tokens.ids, ids)
    assert tokens.texts == ("a photo , of cats !",)
    text = tokens.texts[0]
    assert [piece.text for piece in tokens.pieces[0]] == text.split()
    assert all(text[piece.start : piece.end] == piece.text for piece in tokens.pieces[0])
    assert tokens.readout.tolist() == [7]
    assert tokens.cut == ("",)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (torch.zeros(2, 5, dtype=torch.long), r"shape \(2, 5\).*expected integers of shape"),
        (torch.zeros(77, dtype=torch.long), r"shape \(77,\)"),
        (torch.zeros(1, 77), "type torch.float32"),
        (torch.full((1, 77), CLIP_VOCABULARY), "expected 0 to 49407"),
        (torch.full((1, 77), -1), "from -1 to -1"),
    ],
)
def test_ids_that_do_not_fit_are_refused(ids: Tensor, says: str) -> None:
    with pytest.raises(PromptError, match=says) as error:
        codec()._check(ids)
    assert "\n" not in str(error.value)


def test_without_a_tokenizer_prompts_are_refused_and_ids_are_not() -> None:
    bare = codec(Missing("the tokenizer is elsewhere; pass token ids"), context=6)
    with pytest.raises(PromptError, match="is elsewhere"):
        bare.tokenize(["a dog"])
    ids = torch.tensor([[3, 5, 7, 0, 0, 0]])
    assert [piece.text for piece in bare.from_ids(ids).pieces[0]] == ["[3]", "[5]", "[7]"]


# Other tokenizers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small word-piece tokenizer with begin and end of text, saved as the hub saves them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "a", "dog", "##s", "and", "cat", ",", "&"]
    vocabulary = {word: index for index, word in enumerate(words)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_hugging_face_tokenizer_s_offsets_are_into_the_prompt(
    hugging_face: Path, wrapped: bool
) -> None:
    tokenizer = (
        HFTokenizer(str(hugging_face), context_length=8)
        if wrapped
        else PreTrainedTokenizerFast.from_pretrained(hugging_face)
    )
    prompt = "  Dogs,  a \u00c7at" if not wrapped else "  Dogs &amp;  a \u00c7at"
    tokens = codec(tokenizer, context=8, vocabulary=11).tokenize([prompt, ""])
    expected = [("Dog", 1), ("s", 2), ("&amp;" if wrapped else ",", 3), ("a", 4), ("\u00c7at", 5)]
    assert [(piece.text, piece.position) for piece in tokens.pieces[0]] == expected
    assert tokens.ids[0].tolist() == [2, 5, 6, 10 if wrapped else 9, 4, 8, 3, 0]
    assert tokens.pieces[1] == ()


def test_a_hugging_face_tokenizer_s_cut_is_told(hugging_face: Path) -> None:
    tokenizer = HFTokenizer(str(hugging_face), context_length=5)
    tokens = codec(tokenizer, context=5, vocabulary=11).tokenize(["a dog  and a cat"])
    assert tokens.cut == ("a cat",)
    assert [piece.text for piece in tokens.pieces[0]] == ["a", "dog", "and"]


def test_raw_ids_of_a_hugging_face_tokenizer_spell_their_text(hugging_face: Path) -> None:
    tokenizer = HFTokenizer(str(hugging_face), context_length=8)
    tokens = codec(tokenizer, context=8, vocabulary=11).from_ids(
        torch.tensor([[2, 4, 5, 6, 3, 0, 0, 0]])
    )
    assert [piece.text for piece in tokens.pieces[0]] == ["a", "dog", "s"]
    assert [piece.position for piece in tokens.pieces[0]] == [1, 2, 3]


class Letters:
    """A tokenizer that says its pieces itself: one id a letter."""

    eot_token_id, all_special_ids = 30, [29, 30]

    def pieces(self, text: str) -> list[tuple[int, int, int]]:
        found = enumerate(text)
        return [(ord(letter) - 96, at, at + 1) for at, letter in found if letter.isalpha()]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(token + 96) for token in ids)

    def __call__(self, texts: list[str]) -> Tensor:
        rows = torch.zeros(len(texts), 6, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = [29, *(token for token, _, _ in self.pieces(text)[:4]), 30]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def test_a_tokenizer_may_say_its_pieces_itself() -> None:
    letters = codec(Letters(), context=6, vocabulary=31)
    tokens = letters.tokenize(["a- bcde"])
    assert [(p.position, p.text, p.start) for p in tokens.pieces[0]] == [
        (1, "a", 0),
        (2, "b", 3),
        (3, "c", 4),
        (4, "d", 5),
    ]
    assert tokens.cut == ("e",)
    assert letters.from_ids(tokens.ids).texts == ("a b c d",)


def test_a_tokenizer_of_no_known_kind_gives_ids_alone() -> None:
    tokens = codec(lambda texts: torch.ones(len(texts), 3, dtype=torch.long), 3, 5).tokenize(["x"])
    assert tokens.pieces == ((),)
    assert tokens.cut == ("",)


# Tracing -----------------------------------------------------------------------------------------


def test_alignment_maps_what_is_common_and_spreads_what_is_not() -> None:
    traced = Traced.original("abXYcd").become("ab-cd")
    assert traced.text == "ab-cd"
    assert traced.spans == ((0, 1), (1, 2), (2, 4), (4, 5), (5, 6))
    assert Traced.original("").become("x").spans == ((0, 0),)
    assert Traced.original("ac").become("abc").span(1, 2) == (0, 1)
