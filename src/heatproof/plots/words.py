"""Words of a prompt in the colours of their signed values."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from heatproof.image_maps import ImageWords, Word
from heatproof.plots import colour
from heatproof.plots.lights import (
    FAINT,
    HEADLINES,
    INK,
    KIND_COLOURS,
    PAPER,
    LightsLayout,
    band_sentence,
    draw_band,
)
from heatproof.plots.overlay import draw_scale
from heatproof.plots.text import Number, format_value, one_line, shorten, text_width, wrap, write

SIZE, SMALL, GAP, WIDTH = 22, 13, 20, 900


@dataclass(frozen=True)
class PromptPart:
    """A stretch of the prompt: a word with its value, what lies between words, or what was cut."""

    text: str
    value: float | None = None
    cut: bool = False
    error: float | None = None


def split_prompt(prompt: str, words: Sequence[Word]) -> list[PromptPart]:
    """Split the whole original prompt; what follows the last word did not fit the context."""
    parts: list[PromptPart] = []
    end = 0
    for word in words:
        if word.start > end:
            parts.append(PromptPart(prompt[end : word.start]))
        text = prompt[word.start : word.end]
        parts.append(PromptPart(text, word.value, error=word.error))
        end = word.end
    if end < len(prompt):
        parts.append(PromptPart(prompt[end:], cut=bool(words) and bool(prompt[end:].strip())))
    return parts


def draw_words(words: ImageWords) -> Image.Image:
    """Draw every prompt, word by word, on one shared scale."""
    blocks = [_draw_prompt(words, number) for number in range(len(words.record.prompts))]
    certificate, kind = words.certificate, words.certificate.kind
    sentence = band_sentence(certificate)
    lines = wrap(sentence, SMALL + 2, WIDTH - 3 * GAP, 5) if sentence else []
    lights = LightsLayout(certificate.lights, SMALL, WIDTH - 2 * GAP)
    height = sum(block.height + GAP for block in blocks) + GAP
    foot = 4 * SMALL + lights.height + SMALL + (23 * len(lines) + SMALL + 2 if lines else 0)
    sheet = Image.new("RGB", (WIDTH, height + foot), PAPER)
    y = GAP
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height + GAP
    name = f"words · {words.record.method} · {words.record.model}"
    write(sheet, (GAP, y), shorten(one_line(name), SMALL, WIDTH // 3), SMALL, FAINT)
    write(sheet, (GAP, y + 20), HEADLINES[kind], SMALL, KIND_COLOURS[kind])
    box = (WIDTH // 3 + GAP, y, WIDTH - GAP, y + SMALL)
    draw_scale(sheet, box, words.scale, SMALL, words.record.signs, on_white=True)
    y += 4 * SMALL
    lights.draw(sheet, GAP, y)
    if lines:
        draw_band(sheet, y + lights.height + SMALL, lines, SMALL + 2, kind)
    return sheet


def _draw_prompt(words: ImageWords, prompt: int) -> Image.Image:
    """Draw one prompt: its score, and beneath it its words laid out in lines."""
    scale = words.scale
    placed, line, x = list[tuple[int, float, PromptPart]](), 0, float(GAP)
    for part in split_prompt(words.record.prompts[prompt], words.words[prompt]):
        for piece in _pieces(part):
            width = _piece_width(piece, scale)
            if piece.value is None and not piece.text.strip():
                x += width if x > GAP else 0  # a line does not begin with a space
                continue
            if x + width > WIDTH - GAP and x > GAP:
                line, x = line + 1, float(GAP)
            placed.append((line, x, piece))
            x += width
    step, top = SIZE + SMALL + 22, SMALL + 10
    sheet = Image.new("RGB", (WIDTH, top + step * (line + 1)), PAPER)
    score = f"{words.record.score} {float(words.scores[prompt]):+.4f}"
    write(sheet, (GAP, 0), score, SMALL, FAINT)
    for number, left, piece in placed:
        _draw_piece(sheet, left, top + step * number, piece, scale)
    return sheet


def _pieces(part: PromptPart) -> list[PromptPart]:
    """Return a word as it is; other text cut at its spaces, so that lines can break there."""
    if part.value is not None:
        return [PromptPart(one_line(part.text), part.value, error=part.error)]
    pieces: list[PromptPart] = []
    for letter in part.text:
        if pieces and letter.isspace() == pieces[-1].text.isspace() and not letter.isspace():
            pieces[-1] = PromptPart(pieces[-1].text + letter, cut=part.cut)
        else:
            pieces.append(PromptPart(letter, cut=part.cut))
    return [PromptPart(" " if p.text.isspace() else one_line(p.text), cut=p.cut) for p in pieces]


def _piece_width(piece: PromptPart, scale: float) -> float:
    # The value beneath a short word may be wider than the word.
    width = text_width(piece.text, SIZE)
    if piece.value is None:
        return width
    return max(width, text_width(value_text(piece, scale), SMALL)) + 12


def value_text(piece: PromptPart, scale: float) -> str:
    """Return a word's value; with its standard error, where it has one that is not zero."""
    assert piece.value is not None
    value = format_value(piece.value, scale)
    error = format_value(piece.error, scale).lstrip("+") if piece.error else ""
    return f"{value} ± {error}" if error else value


def _draw_piece(sheet: Image.Image, x: Number, y: Number, piece: PromptPart, scale: float) -> None:
    room = WIDTH - GAP - x
    text = shorten(piece.text, SIZE, room - 12)
    if piece.value is None:
        write(sheet, (x, y + 5), text, SIZE, FAINT)
        if piece.cut:
            line = y + 5 + SIZE * 0.62
            ends = (x, line, x + text_width(text, SIZE), line)
            ImageDraw.Draw(sheet).line(ends, FAINT, 2)
        return
    # A word wider than the drawing is cut, not drawn beyond its edge.
    width = min(_piece_width(piece, scale), room)
    box = (x + 1, y, x + width - 1, y + SIZE + 14)
    fill = colour.css(piece.value, scale)
    ImageDraw.Draw(sheet).rounded_rectangle(box, 5, fill=fill, outline="#d9d9de")
    write(sheet, (x + width / 2, y + 5), text, SIZE, INK, "ma")
    place = (x + width / 2, y + SIZE + 17)
    write(sheet, place, value_text(piece, scale), SMALL, FAINT, "ma")
