"""The linear map that follows attention (W_O), and the one that makes the embedding."""

from collections.abc import Iterator, Sequence

from torch import nn

from heatproof.errors import ReadingError
from heatproof.models.model import Affine, Projection, affine_of, is_linear
from heatproof.reading import Attention

NAMES = ("out_proj", "proj", "c_proj", "o_proj", "projection", "to_out.0")


def output_projection_of(root: nn.Module, layer: Attention) -> Affine:
    """W_O and its bias as they were in the pass that was read.

    Raises:
        ReadingError: see `output_projection`.
    """
    if layer.projection is not None:
        return layer.projection
    return output_projection(root, layer.path, layer.heads * layer.output.shape[-1])


def output_projection(root: nn.Module, path: str, width: int) -> Affine:
    """W_O and its bias, as they are now, of the attention at `path` ("...#n" for a module's further
    calls).

    Raises:
        ReadingError: no linear map of `width` inputs stands there under a name that is known.
    """
    return affine_of(_output_module(root, path, width))


def output_linear(root: nn.Module, path: str, width: int) -> nn.Linear:
    """W_O as torch's own module, whose weights may be written.

    Raises:
        ReadingError: another one stands there (with an adapter, quantised), or none.
    """
    found = _output_module(root, path, width)
    if not isinstance(found, nn.Linear) or type(found).forward is not nn.Linear.forward:
        raise ReadingError(f"the output projection beside {path!r} is a {type(found).__name__}")
    return found


def _output_module(root: nn.Module, path: str, width: int) -> nn.Module:
    for name in _candidates(path.split("#")[0]):
        try:
            found = root.get_submodule(name)
        except AttributeError:
            continue
        if is_linear(found) and found.in_features == width:
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
    maps = [each for part in parts for each in _maps(part)]
    if len(acting) > 1 or len(maps) > 1:
        return None
    linear = maps[0] if maps else None
    if linear is not None and not is_linear(linear):
        return None
    return Projection(acting[0] if acting else nn.Identity(), linear)


def _maps(module: nn.Module) -> Iterator[nn.Module]:
    """What acts in a head: a linear map as one, whatever it is made of (LoRA's)."""
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _maps(part)
    elif not isinstance(module, nn.Identity | nn.Dropout):
        yield module
