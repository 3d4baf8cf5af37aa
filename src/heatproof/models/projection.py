"""The linear map that follows attention (W_O), and the one that makes the embedding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.reading import Attention

Affine = tuple[Float[Tensor, "out in"], Float[Tensor, " out"] | None]


def is_linear(part: nn.Module) -> bool:
    """Return whether a module says of itself that it is linear: torch's, and what replaces them."""
    return all(
        isinstance(getattr(part, name, None), int) for name in ("in_features", "out_features")
    )


def floating_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype of the first floating-point parameter; float32 without one (quantised)."""
    dtypes = (each.dtype for each in module.parameters() if each.is_floating_point())
    return next(dtypes, torch.float32)


def affine_of(part: nn.Module) -> Affine:
    """Return matrix and bias of a module that is linear (`is_linear`).

    Those of another class than torch's own are read off what the module makes of unit vectors.

    Raises:
        ReadingError: it is not linear.
    """
    if type(part).forward is nn.Linear.forward:
        assert isinstance(part, nn.Linear)
        return part.weight, part.bias
    width: Any = part.in_features
    dtype = floating_dtype(part)
    device = next((each.device for each in part.parameters()), torch.device("cpu"))
    # An adapter (LoRA) or a quantised layer is linear without having one weight: unit vectors tell.
    with torch.no_grad():
        bias = part(torch.zeros(1, width, dtype=dtype, device=device))[0]
        matrix = (part(torch.eye(width, dtype=dtype, device=device)) - bias).T
        probe = torch.linspace(-1, 1, width, dtype=dtype, device=device)
        expected, given = matrix @ probe + bias, part(probe[None])[0]
    if (expected - given).abs().max() > LINEAR[dtype] * given.abs().max():
        raise ReadingError(f"a {type(part).__name__} stands where a linear map was expected")
    return matrix, bias


# How far a map may be from linear, relative to its largest value: what rounding explains.
LINEAR = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class EmbeddingHead:
    """What stands between one token of the last block and the embedding, of the model's own parts.

    `norm` is the model's final norm, `linear` the map into the embedding: a module (torch's own, or
    one that stands in its place: LoRA's, a quantised one), a matrix (width, dim) that the model
    multiplies by, or None where there is none. Applied to the readout token it gives the embedding;
    a tower that reads out otherwise (a pool, a mean) has none.
    """

    norm: nn.Module
    linear: nn.Module | nn.Parameter | None

    def __call__(self, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        normed = self.norm(tokens)
        if isinstance(self.linear, nn.Module):
            return self.linear(normed)
        return normed if self.linear is None else normed @ self.linear

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of tokens that come in: that of `linear`."""
        if isinstance(self.linear, nn.Parameter):
            return self.linear.dtype
        return floating_dtype(self.norm if self.linear is None else self.linear)

    def affine(self) -> Affine:
        """Return matrix and bias of `linear`."""
        assert self.linear is not None
        if isinstance(self.linear, nn.Module):
            return affine_of(self.linear)
        return self.linear.T, None


NAMES = ("out_proj", "proj", "c_proj", "o_proj", "projection", "to_out.0")


def output_projection_of(root: nn.Module, layer: Attention) -> Affine:
    """Return W_O and its bias as they were in the pass that was read.

    Raises:
        ReadingError: see `output_projection`.
    """
    if layer.projection is not None:
        return layer.projection
    return output_projection(root, layer.path, layer.heads * layer.output.shape[-1])


def output_projection(root: nn.Module, path: str, width: int) -> Affine:
    """Return W_O and its bias, as they are now, of the attention at `path`.

    A module's further calls have a path that ends in "#n".

    Raises:
        ReadingError: no linear map of `width` inputs stands there under a name that is known.
    """
    return affine_of(_output_module(root, path, width))


def output_linear(root: nn.Module, path: str, width: int) -> nn.Linear:
    """Return W_O as torch's own module, whose weights may be written.

    Raises:
        ReadingError: another one stands there (with an adapter, quantised), or none.
    """
    found = _output_module(root, path, width)
    if not isinstance(found, nn.Linear) or type(found).forward is not nn.Linear.forward:
        raise ReadingError(f"the output projection beside {path!r} is a {type(found).__name__}")
    return found


def _output_module(root: nn.Module, path: str, width: int) -> nn.Module:
    # Names of output projections in open_clip, timm, transformers, torchvision and diffusers.
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


def projection(norms: Sequence[nn.Module], parts: Sequence[nn.Module]) -> EmbeddingHead | None:
    """Return the head that a tower's last modules, in order, make up.

    None where they are no norm and linear map: two norms, an MLP."""
    # timm has a norm before and one after the pool; one of them is an identity.
    acting = [each for each in norms if not isinstance(each, nn.Identity)]
    maps = [each for part in parts for each in _maps(part)]
    if len(acting) > 1 or len(maps) > 1:
        return None
    linear = maps[0] if maps else None
    if linear is not None and not is_linear(linear):
        return None
    return EmbeddingHead(acting[0] if acting else nn.Identity(), linear)


def _maps(module: nn.Module) -> Iterator[nn.Module]:
    """Yield what acts in a head: a linear map as one, whatever it is made of (LoRA's)."""
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _maps(part)
    elif not isinstance(module, nn.Identity | nn.Dropout):
        yield module
