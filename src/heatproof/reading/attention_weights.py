"""Find, read and change the weights around an attention call, head by head."""

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
class StoredRows:
    """Name rows of a stored tensor: one of `parts` equal parts; `name` is a dotted attribute."""

    name: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class QKVLayout:
    """Say where a module keeps queries, keys and values; a bias may be missing."""

    weights: tuple[StoredRows, StoredRows, StoredRows]
    biases: tuple[StoredRows, StoredRows, StoredRows]


def _thirds(name: str) -> tuple[StoredRows, StoredRows, StoredRows]:
    return StoredRows(name, 0, 3), StoredRows(name, 1, 3), StoredRows(name, 2, 3)


def _apart(names: Sequence[str]) -> tuple[StoredRows, StoredRows, StoredRows]:
    query, key, value = names
    return StoredRows(query), StoredRows(key), StoredRows(value)


def _linears(query: str, key: str, value: str) -> QKVLayout:
    names = (query, key, value)
    weights = _apart([f"{name}.weight" for name in names])
    return QKVLayout(weights, _apart([f"{name}.bias" for name in names]))


# The first layout whose three weights exist is taken. Fused projections are cut into equal parts.
LAYOUTS = (
    QKVLayout(_thirds("in_proj_weight"), _thirds("in_proj_bias")),  # nn.MultiheadAttention
    QKVLayout(  # the same, with keys and values of another width (attention pools)
        _apart(["q_proj_weight", "k_proj_weight", "v_proj_weight"]), _thirds("in_proj_bias")
    ),
    _linears("q_proj", "k_proj", "v_proj"),  # Hugging Face, open_clip's ResNet pool
    _linears("query", "key", "value"),
    QKVLayout(_thirds("qkv.weight"), _thirds("qkv.bias")),  # timm, BLIP
    QKVLayout(  # timm's attention pool
        (StoredRows("q.weight"), StoredRows("kv.weight", 0, 2), StoredRows("kv.weight", 1, 2)),
        (StoredRows("q.bias"), StoredRows("kv.bias", 0, 2), StoredRows("kv.bias", 1, 2)),
    ),
)
_SEPARATE_BIASES = _apart(["q_bias", "k_bias", "v_bias"])  # EVA, beside a fused `qkv`


@dataclass(frozen=True)
class WeightRows:
    """Read and write some rows of a weight tensor."""

    tensor: Tensor
    start: int
    stop: int

    def read(self) -> Tensor:
        """Return a view of the rows."""
        return self.tensor.data[self.start : self.stop]

    def write(self, values: Tensor) -> None:
        """Replace the rows, in new memory (see `weight_edits.write`)."""
        whole = self.tensor.data.clone()
        whole[self.start : self.stop] = values.to(whole.dtype)
        write(self.tensor, whole)


@dataclass(frozen=True)
class HeadProjection:
    """The linear map that computes queries, keys or values, head by head."""

    weight: WeightRows
    bias: WeightRows | None
    heads: int

    def by_head(self) -> Float[Tensor, "head channel input"]:
        """Return the weight, one matrix per head."""
        return self.weight.read().unflatten(0, (self.heads, -1))

    def change(self, matrices: Float[Tensor, "head new channel"]) -> None:
        """Multiply each head's output by a matrix of its own, bias included."""
        self.weight.write((matrices @ self.by_head()).flatten(0, 1))
        if self.bias is not None:
            bias = self.bias.read().unflatten(0, (self.heads, -1, 1))
            self.bias.write((matrices @ bias).flatten())

    def reorder(self, order: Sequence[int]) -> None:
        """Put head `order[n]` in the place of head n."""
        picked = list(order)
        self.weight.write(self.by_head()[picked].flatten(0, 1))
        if self.bias is not None:
            self.bias.write(self.bias.read().unflatten(0, (self.heads, -1))[picked].flatten())


@dataclass(frozen=True)
class AttentionWeights:
    """The weights around one attention call; `output` is W_O, whose columns belong to heads."""

    path: str
    query: HeadProjection
    key: HeadProjection
    value: HeadProjection
    output: nn.Linear

    @property
    def heads(self) -> int:
        """Return how many heads the call has."""
        return self.value.heads

    def output_by_head(self) -> Float[Tensor, "out head channel"]:
        """Return W_O, its columns by head."""
        return self.output.weight.data.unflatten(1, (self.heads, -1))

    def write_output(self, values: Float[Tensor, "out head channel"]) -> None:
        """Replace W_O, in new memory."""
        write(self.output.weight, values.flatten(1))

    @property
    def rows(self) -> Iterator[WeightRows]:
        """Yield every weight and bias around the call."""
        for projection in (self.query, self.key, self.value):
            yield projection.weight
            if projection.bias is not None:
                yield projection.bias
        yield WeightRows(self.output.weight, 0, len(self.output.weight))


def attention_weights(
    root: nn.Module, sites: Sequence[AttentionLayer]
) -> tuple[list[AttentionWeights], list[str]]:
    """Return the weights of a tower's attention modules, and the paths whose layout is unknown."""
    views: list[AttentionWeights] = []
    unknown: list[str] = []
    for path, heads in {site.path.split("#")[0]: site.heads for site in sites}.items():
        try:
            views.append(_view(root, path, heads))
        except ReadingError:
            unknown.append(path)
    return views, unknown


def _view(root: nn.Module, path: str, heads: int) -> AttentionWeights:
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
        HeadProjection(weight, bias, heads)
        for weight, bias in zip(weights, biases, strict=True)
        if weight is not None
    )
    width = value.weight.stop - value.weight.start
    return AttentionWeights(path, query, key, value, output_linear(root, path, width))


def _slot(module: nn.Module, part: StoredRows) -> WeightRows | None:
    stored: object = module
    for name in part.name.split("."):
        stored = getattr(stored, name, None)
    if not isinstance(stored, torch.Tensor) or stored.dim() == 0:
        return None
    size = len(stored) // part.parts
    return WeightRows(stored, part.part * size, (part.part + 1) * size)
