"""Words of a prompt in the colours of their signed values, as a picture and as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageDraw

from heatproof.explanation import Word, WordExplanation
from heatproof.plots import colour
from heatproof.plots.lights import (
    FAINT,
    HEADLINES,
    INK,
    KIND_COLOURS,
    PAPER,
    Lights,
    band,
    sentence_of,
)
from heatproof.plots.overlay import scale_bar
from heatproof.plots.text import Number, figure, plain, shortened, width, wrapped, write

SIZE, SMALL, GAP, BROAD = 22, 13, 20, 900


@dataclass(frozen=True)
class Span:
    """A stretch of the prompt: a word with its value, what lies between words, or what was cut."""

    text: str
    value: float | None = None
    cut: bool = False


def spans(prompt: str, words: Sequence[Word]) -> list[Span]:
    """The whole original prompt, in order; what follows the last word did not fit the context."""
    found: list[Span] = []
    end = 0
    for word in words:
        if word.start > end:
            found.append(Span(prompt[end : word.start]))
        found.append(Span(prompt[word.start : word.end], word.value))
        end = word.end
    if end < len(prompt):
        found.append(Span(prompt[end:], cut=bool(words) and bool(prompt[end:].strip())))
    return found


def shared_scale(words: WordExplanation, image: int = 0) -> float:
    """The largest |value| of any word of any prompt of a picture: the end of its one scale."""
    values = [abs(word.value) for each in words.words[image] for word in each]
    return max(values, default=0.0)


def html(words: WordExplanation, image: int, prompt: int) -> str:
    """The prompt as HTML, each word over its colour with its value beneath."""
    scale = shared_scale(words, image)
    parts: list[str] = []
    for span in spans(words.record.prompts[prompt], words.words[image][prompt]):
        text = escape(span.text)
        if span.value is not None:
            fill = colour.css(span.value, scale)
            parts.append(
                f'<span class="word" style="background:{fill}">{text}'
                f"<small>{figure(span.value, scale)}</small></span>"
            )
        elif span.cut:
            parts.append(f'<del title="did not fit into the context">{text}</del>')
        else:
            parts.append(text)
    return f'<p class="words">{"".join(parts)}</p>'


def picture(words: WordExplanation, image: int = 0) -> Image.Image:
    """Every prompt of a picture, word by word, on one shared scale."""
    scale = shared_scale(words, image)
    blocks = [_prompt(words, image, number, scale) for number in range(len(words.record.prompts))]
    certificate, kind = words.certificate, words.certificate.kind
    sentence = sentence_of(certificate)
    lines = wrapped(sentence, SMALL + 2, BROAD - 3 * GAP, 5) if sentence else []
    lights = Lights(certificate.lights, SMALL, BROAD - 2 * GAP)
    high = sum(block.height + GAP for block in blocks) + GAP
    foot = 4 * SMALL + lights.height + SMALL + (23 * len(lines) + SMALL + 2 if lines else 0)
    sheet = Image.new("RGB", (BROAD, high + foot), PAPER)
    y = GAP
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height + GAP
    name = f"words · {words.record.method} · {words.record.model}"
    write(sheet, (GAP, y), shortened(plain(name), SMALL, BROAD // 3), SMALL, FAINT)
    write(sheet, (GAP, y + 20), HEADLINES[kind], SMALL, KIND_COLOURS[kind])
    box = (BROAD // 3 + GAP, y, BROAD - GAP, y + SMALL)
    scale_bar(sheet, box, scale, SMALL, words.record.signs, on_white=True)
    y += 4 * SMALL
    lights.draw(sheet, GAP, y)
    if lines:
        band(sheet, y + lights.height + SMALL, lines, SMALL + 2, kind)
    return sheet


def _prompt(words: WordExplanation, image: int, prompt: int, scale: float) -> Image.Image:
    """One prompt, its words laid out in lines, its score above."""
    placed, line, x = list[tuple[int, float, Span]](), 0, float(GAP)
    for span in spans(words.record.prompts[prompt], words.words[image][prompt]):
        for part in _pieces(span):
            wide = _width(part, scale)
            if part.value is None and not part.text.strip():
                x += wide if x > GAP else 0
                continue
            if x + wide > BROAD - GAP and x > GAP:
                line, x = line + 1, float(GAP)
            placed.append((line, x, part))
            x += wide
    step, top = SIZE + SMALL + 22, SMALL + 10
    sheet = Image.new("RGB", (BROAD, top + step * (line + 1)), PAPER)
    score = f"{words.record.score} {float(words.scores[image, prompt]):+.4f}"
    write(sheet, (GAP, 0), score, SMALL, FAINT)
    for number, left, part in placed:
        _draw(sheet, left, top + step * number, part, scale)
    return sheet


def _pieces(span: Span) -> list[Span]:
    """A word as it is; other text cut at its spaces, so that lines can break there."""
    if span.value is not None:
        return [Span(plain(span.text), span.value)]
    pieces: list[Span] = []
    for letter in span.text:
        if pieces and letter.isspace() == pieces[-1].text.isspace() and not letter.isspace():
            pieces[-1] = Span(pieces[-1].text + letter, cut=span.cut)
        else:
            pieces.append(Span(letter, cut=span.cut))
    return [Span(" " if p.text.isspace() else plain(p.text), cut=p.cut) for p in pieces]


def _width(part: Span, scale: float) -> float:
    if part.value is None:
        return width(part.text, SIZE)
    return max(width(part.text, SIZE), width(figure(part.value, scale), SMALL)) + 12


def _draw(sheet: Image.Image, x: Number, y: Number, part: Span, scale: float) -> None:
    room = BROAD - GAP - x
    text = shortened(part.text, SIZE, room - 12)
    if part.value is None:
        write(sheet, (x, y + 5), text, SIZE, FAINT)
        if part.cut:
            line = y + 5 + SIZE * 0.62
            ImageDraw.Draw(sheet).line((x, line, x + width(text, SIZE), line), FAINT, 2)
        return
    wide = min(_width(part, scale), room)
    box = (x + 1, y, x + wide - 1, y + SIZE + 14)
    fill = colour.css(part.value, scale)
    ImageDraw.Draw(sheet).rounded_rectangle(box, 5, fill=fill, outline="#d9d9de")
    write(sheet, (x + wide / 2, y + 5), text, SIZE, INK, "ma")
    place = (x + wide / 2, y + SIZE + 17)
    write(sheet, place, figure(part.value, scale), SMALL, FAINT, "ma")
