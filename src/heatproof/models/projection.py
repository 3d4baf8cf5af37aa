"""The linear map that follows attention (W_O), and the one that makes the embedding."""

from collections.abc import Iterator, Sequence

from torch import nn

from heatproof.errors import ReadingError
from heatproof.models.model import Projection

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


def projection(norms: Sequence[nn.Module], parts: Sequence[nn.Module]) -> Projection | None:
    """The tower's end, put together from its modules in order; None where it is no norm and linear
    map: two norms, an MLP."""
    acting = [each for each in norms if not isinstance(each, nn.Identity)]
    maps = [each for part in parts for each in part.modules() if _acts(each)]
    if len(acting) > 1 or len(maps) > 1:
        return None
    linear = maps[0] if maps else None
    if not isinstance(linear, nn.Linear | None):
        return None
    return Projection(acting[0] if acting else nn.Identity(), linear)


def _acts(module: nn.Module) -> bool:
    idle = isinstance(module, nn.Identity | nn.Dropout | nn.Sequential)
    return not idle
