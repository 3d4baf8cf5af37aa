"""Tiny random models by name."""

from dataclasses import replace

from heatproof.errors import UnknownName
from heatproof.models.model import Model
from heatproof.specimens import SPECIMENS


def load(name: str, *, allow_download: bool = True) -> Model:  # noqa: ARG001 (nothing to download)
    """Build a specimen anew: the caller may change it.

    Raises:
        UnknownName: there is none of this name.
    """
    if name not in SPECIMENS:
        raise UnknownName("specimen", name, SPECIMENS)
    return replace(SPECIMENS[name](), spec=f"specimen:{name}")
