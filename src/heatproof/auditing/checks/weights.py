"""Where an attention module keeps its projections: a table of layouts, and views by head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.models.projection import output_linear
from heatproof.reading import AttentionLayer
from heatproof.reading.weight_edits import write


@dataclass(frozen=True)
class Part:
    """Rows of a stored tensor: the `part`th of `of` equal parts; `name` is a dotted attribute."""

    name: str
    part: int = 0
    of: int = 1


@dataclass(frozen=True)
class Layout:
    """Weights and biases of queries, keys and values; a bias that is not there is left out."""

    weights: tuple[Part, Part, Part]
    biases: tuple[Part, Part, Part]


def _thirds(name: str) -> tuple[Part, Part, Part]:
    return Part(name, 0, 3), Part(name, 1, 3), Part(name, 2, 3)


def _apart(names: Sequence[str]) -> tuple[Part, Part, Part]:
    query, key, value = names
    return Part(query), Part(key), Part(value)


def _linears(query: str, key: str, value: str) -> Layout:
    names = (query, key, value)
    weights = _apart([f"{name}.weight" for name in names])
    return Layout(weights, _apart([f"{name}.bias" for name in names]))


# The first whose three weights are there is taken.
LAYOUTS = (
    Layout(_thirds("in_proj_weight"), _thirds("in_proj_bias")),  # nn.MultiheadAttention
    Layout(  # the same, with keys and values of another width (attention pools)
        _apart(["q_proj_weight", "k_proj_weight", "v_proj_weight"]), _thirds("in_proj_bias")
    ),
    _linears("q_proj", "k_proj", "v_proj"),  # Hugging Face, open_clip's ResNet pool
    _linears("query", "key", "value"),
    Layout(_thirds("qkv.weight"), _thirds("qkv.bias")),  # timm, BLIP
    Layout(  # timm's attention pool
        (Part("q.weight"), Part("kv.weight", 0, 2), Part("kv.weight", 1, 2)),
        (Part("q.bias"), Part("kv.bias", 0, 2), Part("kv.bias", 1, 2)),
    ),
)
_SEPARATE_BIASES = _apart(["q_bias", "k_bias", "v_bias"])  # EVA, beside a fused `qkv`


@dataclass(frozen=True)
class Slot:
    """A writable view of some rows of a weight tensor."""

    tensor: Tensor
    start: int
    stop: int

    def read(self) -> Tensor:
        return self.tensor.data[self.start : self.stop]

    def write(self, values: Tensor) -> None:
        whole = self.tensor.data.clone()
        whole[self.start : self.stop] = values.to(whole.dtype)
        write(self.tensor, whole)


@dataclass(frozen=True)
class Projection:
    """The linear map that makes queries, keys or values, by head."""

    weight: Slot
    bias: Slot | None
    heads: int

    def by_head(self) -> Float[Tensor, "head channel input"]:
        return self.weight.read().unflatten(0, (self.heads, -1))

    def change(self, matrices: Float[Tensor, "head new channel"]) -> None:
        """Each head's output multiplied by its matrix, bias included."""
        self.weight.write((matrices @ self.by_head()).flatten(0, 1))
        if self.bias is not None:
            bias = self.bias.read().unflatten(0, (self.heads, -1, 1))
            self.bias.write((matrices @ bias).flatten())

    def reorder(self, order: Sequence[int]) -> None:
        """Head n becomes what head `order[n]` was."""
        picked = list(order)
        self.weight.write(self.by_head()[picked].flatten(0, 1))
        if self.bias is not None:
            self.bias.write(self.bias.read().unflatten(0, (self.heads, -1))[picked].flatten())


@dataclass(frozen=True)
class WeightView:
    """The weights around one attention call. `output` is W_O, whose columns are the heads'."""

    path: str
    query: Projection
    key: Projection
    value: Projection
    output: nn.Linear

    @property
    def heads(self) -> int:
        return self.value.heads

    def output_by_head(self) -> Float[Tensor, "out head channel"]:
        return self.output.weight.data.unflatten(1, (self.heads, -1))

    def write_output(self, values: Float[Tensor, "out head channel"]) -> None:
        write(self.output.weight, values.flatten(1))

    @property
    def slots(self) -> Iterator[Slot]:
        for projection in (self.query, self.key, self.value):
            yield projection.weight
            if projection.bias is not None:
                yield projection.bias
        yield Slot(self.output.weight, 0, len(self.output.weight))


def weight_views(
    root: nn.Module, sites: Sequence[AttentionLayer]
) -> tuple[list[WeightView], list[str]]:
    """The views of all attention modules of a tower, and the paths whose layout is not known."""
    views: list[WeightView] = []
    unknown: list[str] = []
    for path, heads in {site.path.split("#")[0]: site.heads for site in sites}.items():
        try:
            views.append(_view(root, path, heads))
        except ReadingError:
            unknown.append(path)
    return views, unknown


def _view(root: nn.Module, path: str, heads: int) -> WeightView:
    module = root.get_submodule(path)
    for layout in LAYOUTS:
        weights = [_slot(module, part) for part in layout.weights]
        if all(slot is not None for slot in weights):
            break
    else:
        raise ReadingError(f"no known layout of queries, keys and values at {path!r}")
    biases = [_slot(module, part) for part in layout.biases]
    if not any(biases):
        biases = [_slot(module, part) for part in _SEPARATE_BIASES]
    query, key, value = (
        Projection(weight, bias, heads)
        for weight, bias in zip(weights, biases, strict=True)
        if weight is not None
    )
    width = value.weight.stop - value.weight.start
    return WeightView(path, query, key, value, output_linear(root, path, width))


def _slot(module: nn.Module, part: Part) -> Slot | None:
    found: object = module
    for name in part.name.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, torch.Tensor) or found.dim() == 0:
        return None
    size = len(found) // part.of
    return Slot(found, part.part * size, (part.part + 1) * size)
