"""The certificate on drawings: a headline, four lights, a band with the reason, a badge."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from heatproof.certificate import Certificate, Kind, Light, State
from heatproof.plots.text import text_width, wrap, write

INK, FAINT, PAPER = "#1b1b1f", "#5f6068", "#ffffff"
ALARM, WARN, CALM = "#a3123a", "#8a5a00", "#2f6b3a"

HEADLINES: dict[Kind, str] = {
    "holds": "certificate holds",
    "holds with limits": "certificate holds, with limits",
    "another backward rule": "certificate fails: another backward rule",
    "fails": "CERTIFICATE FAILS",
    "not established": "not certified",
}
KIND_COLOURS: dict[Kind, str] = {
    "holds": CALM,
    "holds with limits": WARN,
    "another backward rule": WARN,
    "fails": ALARM,
    "not established": FAINT,
}
STATE_COLOURS: dict[State, str] = {
    "yes": CALM,
    "limited": WARN,
    "no": ALARM,
    "not established": FAINT,
    "not applicable": FAINT,
}


def badge_of(certificate: Certificate) -> tuple[str, str]:
    """Return text and colour of the badge; no text where there is only good news, or a limit that
    the lights state."""
    if certificate.kind in ("holds", "holds with limits"):
        # The gravest limit alone: a badge has room for one.
        states = {light.name: light.state for light in certificate.lights}
        if states["follows the prompt"] == "no":
            return "does not follow the prompt", ALARM
        return ("random weights", WARN) if certificate.weights == "random" else ("", CALM)
    text = {"fails": "CERTIFICATE FAILS", "not established": "not certified"}
    return text.get(certificate.kind, certificate.kind), KIND_COLOURS[certificate.kind]


def band_sentence(certificate: Certificate) -> str:
    """Return what the band says; nothing where the lights say it all."""
    return "" if certificate.holds else certificate.sentence


def draw_badge(sheet: Image.Image, size: int, certificate: Certificate) -> None:
    """Draw a badge on the map itself, which stays when the caption is cut away."""
    text, fill = badge_of(certificate)
    if not text:
        return
    width = text_width(text, size) + size
    box = (size // 2, size // 2, size // 2 + width, size // 2 + 1.8 * size)
    ImageDraw.Draw(sheet).rounded_rectangle(box, size // 3, fill=fill)
    write(sheet, (size, size * 0.8), text, size, PAPER)


def draw_band(sheet: Image.Image, y: int, lines: list[str], size: int, kind: Kind) -> None:
    """Draw a full-width band that says why a map is not certified."""
    height = round(1.5 * size) * len(lines) + size
    ImageDraw.Draw(sheet).rectangle((0, y, sheet.width, y + height), fill=KIND_COLOURS[kind])
    for number, line in enumerate(lines):
        place = (size, y + size // 2 + round(1.5 * size) * number)
        write(sheet, place, line, size, PAPER)


class LightsLayout:
    """The four lights laid out in lines of `room` pixels, before the drawing's height is known.

    With `evidence` each light has a paragraph of its own; without, they follow one another.
    """

    def __init__(
        self, lights: Sequence[Light], size: int, room: float, *, evidence: bool = False
    ) -> None:
        self.size = size
        self._placed: list[tuple[float, int, str, str]] = []  # x, line, text, colour of the dot
        self._lines = 0
        if evidence:
            self._place_paragraphs(lights, room)
        else:
            self._place_in_a_row(lights, room)

    @property
    def height(self) -> int:
        """Pixels that the lights take."""
        return round(1.5 * self.size) * self._lines

    def draw(self, sheet: Image.Image, left: int, top: int) -> None:
        """Draw the lights, their first line at `top`."""
        for x, line, text, colour in self._placed:
            y = top + round(1.5 * self.size) * line
            if colour:
                side = round(0.7 * self.size)
                box = (left + x, y + 0.25 * self.size, left + x + side, y + 0.25 * self.size + side)
                ImageDraw.Draw(sheet).rounded_rectangle(box, side // 4, fill=colour)
            write(sheet, (left + x + 1.1 * self.size, y), text, self.size, colour or FAINT)

    def _place_paragraphs(self, lights: Sequence[Light], room: float) -> None:
        for light in lights:
            text = f"{light.name}: {light.state} · {light.evidence}"
            colour = STATE_COLOURS[light.state]
            for line in wrap(text, self.size, room - 1.1 * self.size, 2):
                self._placed.append((0.0, self._lines, line, colour))
                # The second line of a paragraph has no dot.
                self._lines, colour = self._lines + 1, ""

    def _place_in_a_row(self, lights: Sequence[Light], room: float) -> None:
        x, line = 0.0, 0
        for light in lights:
            text = f"{light.name}: {light.state}"
            width = text_width(text, self.size) + 2.2 * self.size
            if x and x + width > room:
                x, line = 0.0, line + 1
            self._placed.append((x, line, text, STATE_COLOURS[light.state]))
            x += width
        self._lines = line + 1
