"""What a certificate says, as it stands on pictures: a headline, four lights, a band, a badge."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from heatproof.certificate import Certificate, Kind, Light, State
from heatproof.plots.text import width, wrapped, write

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
    """Text and colour of the mark on the picture itself; no text where there is only good news, or
    a limit that the lights beneath it state."""
    if certificate.kind in ("holds", "holds with limits"):
        states = {light.name: light.state for light in certificate.lights}
        if states["follows the prompt"] == "no":
            return "does not follow the prompt", ALARM
        return ("random weights", WARN) if certificate.weights == "random" else ("", CALM)
    text = {"fails": "CERTIFICATE FAILS", "not established": "not certified"}
    return text.get(certificate.kind, certificate.kind), KIND_COLOURS[certificate.kind]


def sentence_of(certificate: Certificate) -> str:
    """What the band says; nothing where the lights say it all."""
    return "" if certificate.holds else certificate.sentence


def badge(sheet: Image.Image, size: int, certificate: Certificate) -> None:
    """A mark on the picture itself, which stays when the caption is cut away."""
    text, fill = badge_of(certificate)
    if not text:
        return
    wide = width(text, size) + size
    box = (size // 2, size // 2, size // 2 + wide, size // 2 + 1.8 * size)
    ImageDraw.Draw(sheet).rounded_rectangle(box, size // 3, fill=fill)
    write(sheet, (size, size * 0.8), text, size, PAPER)


def band(sheet: Image.Image, y: int, lines: list[str], size: int, kind: Kind) -> None:
    """A full-width band that says why a map is not certified."""
    high = round(1.5 * size) * len(lines) + size
    ImageDraw.Draw(sheet).rectangle((0, y, sheet.width, y + high), fill=KIND_COLOURS[kind])
    for number, line in enumerate(lines):
        place = (size, y + size // 2 + round(1.5 * size) * number)
        write(sheet, place, line, size, PAPER)


# The four lights: in full, a paragraph each; or in short, one after the other.


class Lights:
    """The lights laid out in lines of `room` pixels, so that a picture can make place for them."""

    def __init__(
        self, lights: Sequence[Light], size: int, room: float, *, evidence: bool = False
    ) -> None:
        self.size = size
        self.placed: list[tuple[float, int, str, str]] = []
        self.lines = 0
        if evidence:
            self._in_full(lights, room)
        else:
            self._in_short(lights, room)

    @property
    def height(self) -> int:
        return round(1.5 * self.size) * self.lines

    def draw(self, sheet: Image.Image, left: int, top: int) -> None:
        for x, line, text, colour in self.placed:
            y = top + round(1.5 * self.size) * line
            if colour:
                side = round(0.7 * self.size)
                box = (left + x, y + 0.25 * self.size, left + x + side, y + 0.25 * self.size + side)
                ImageDraw.Draw(sheet).rounded_rectangle(box, side // 4, fill=colour)
            write(sheet, (left + x + 1.1 * self.size, y), text, self.size, colour or FAINT)

    def _in_full(self, lights: Sequence[Light], room: float) -> None:
        for light in lights:
            text = f"{light.name}: {light.state} · {light.evidence}"
            colour = STATE_COLOURS[light.state]
            for line in wrapped(text, self.size, room - 1.1 * self.size, 2):
                self.placed.append((0.0, self.lines, line, colour))
                self.lines, colour = self.lines + 1, ""

    def _in_short(self, lights: Sequence[Light], room: float) -> None:
        x, line = 0.0, 0
        for light in lights:
            text = f"{light.name}: {light.state}"
            wide = width(text, self.size) + 2.2 * self.size
            if x and x + wide > room:
                x, line = 0.0, line + 1
            self.placed.append((x, line, text, STATE_COLOURS[light.state]))
            x += wide
        self.lines = line + 1
