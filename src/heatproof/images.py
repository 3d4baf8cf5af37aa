"""Pictures as users have them, as the RGB photograph that a viewer would show."""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Photo:
    """An upright 8-bit RGB photograph, where it came from, and what was done to read it."""

    image: Image.Image
    source: str
    notices: tuple[str, ...] = ()
