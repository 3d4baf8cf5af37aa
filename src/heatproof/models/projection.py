"""The linear map that follows attention (W_O), found beside the module that called it."""

from collections.abc import Iterator

from torch import nn

from heatproof.errors import ReadingError

NAMES = ("out_proj", "proj", "c_proj", "o_proj", "projection", "to_out.0")


def output_projection(root: nn.Module, path: str, width: int) -> nn.Linear:
    """W_O and its bias of the attention at `path` ("...#n" for a module's further calls).

    Raises:
        ReadingError: no linear map of `width` inputs stands there under a name that is known.
    """
    for name in _candidates(path.split("#")[0]):
        try:
            found = root.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(found, nn.Linear) and found.in_features == width:
            return found
    raise ReadingError(
        f"no output projection of {width} inputs beside {path!r} (looked for {', '.join(NAMES)}); "
        "try projection=none"
    )


def _candidates(path: str) -> Iterator[str]:
    prefix = f"{path}." if path else ""
    yield from (prefix + name for name in NAMES)
    parent = path.rpartition(".")[0]
    yield from (f"{parent}.{name}" for name in ("output.dense", *NAMES))
