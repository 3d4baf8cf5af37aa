"""Pages from the templates in `templates/`: self-contained, and HTML escapes what is handed in.

`page.html` is the base of every page, `macros.html` holds its parts (table, badge, figure, facts,
notices), `page.css` is the one style. Python hands in plain values and drawings, never HTML.
"""

import base64
import io
import json
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from heatproof import __version__


class Cell(NamedTuple):
    """A table cell that is more than its text.

    `sign` is a mark behind the text, `small` stands beside it in small letters, `below` in lines of
    their own.
    """

    text: str
    sign: str = ""
    small: str = ""
    below: tuple[str, ...] = ()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("heatproof.pages"),
        autoescape=lambda name: name is None or not name.endswith(".md"),
        # A name that a page forgot to hand in stops the page; it would vanish from it silently.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": data_uri, "json": _json, "sentence_case": sentence_case}
    return environment


def page(template: str, **values: Any) -> str:
    """Render a template of `templates/`.

    Raises:
        jinja2.UndefinedError: the template names a value that was not handed in.
    """
    return _environment().get_template(template).render(version=__version__, **values)


def sentence_case(text: str) -> str:
    """Return `text` with its first letter large; others, such as a name's, stay as they are."""
    return text[:1].upper() + text[1:]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1)


def data_uri(image: Image.Image | bytes, lossless: bool = False) -> str:
    """Return an image (or the bytes of a PNG) as an address that needs no file."""
    if isinstance(image, bytes):
        kind, content = "png", image
    else:
        kind, buffer = "png" if lossless else "jpeg", io.BytesIO()
        # JPEG shrinks photos tenfold; full chroma keeps the edges of coloured maps in place.
        options: dict[str, int] = {} if lossless else {"quality": 90, "subsampling": 0}
        image.save(buffer, kind.upper(), **options)
        content = buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
