"""Pieces of HTML that every page is made of: a page needs nothing else, and asks for nothing."""

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from typing import Any

from PIL import Image


def document(title: str, body: str) -> str:
    """A self-contained HTML document."""
    style = resources.files("heatproof.pages").joinpath("page.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # No request leaves this page, whatever ends up in it.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def mark(kind: str) -> str:
    warn = dict.fromkeys(("holds with limits", "another backward rule"), "warn")
    name = {"violated": "bad", "fails": "bad", "holds": "ok", **warn}.get(kind, "faint")
    return f'<span class="{name}">{escape(kind)}</span>'


def table(
    head: list[str], rows: list[list[str]], numbers: Iterable[int] = (), short: Iterable[int] = ()
) -> str:
    """A table of cells that are HTML already; `numbers` stand right, `short` are never broken."""
    right = dict.fromkeys(numbers, ' class="number"')
    right |= dict.fromkeys(short, ' class="short"')
    top = "".join(f"<th{right.get(n, '')}>{escape(name)}</th>" for n, name in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(f"<td{right.get(n, '')}>{cell}</td>" for n, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="table"><table><tr>{top}</tr>{body}</table></div>'


def facts(facts: Mapping[str, Any]) -> str:
    items = (f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    return f"<dl>{''.join(items)}</dl>"


def data(picture: Image.Image, lossless: bool = False) -> str:
    """The picture itself, as an address."""
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=90, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
