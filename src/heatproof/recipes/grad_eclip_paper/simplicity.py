"""(a) "Simpler computation", counted: one last attention layer, written out in five ways.

The layer stands alone: the entering tokens are projected to q, k, v; the readout's output goes
through W_O, is added to the residual and scored by a cosine. All ways return one map. In each,
`rows` is how much of the layer is computed: every query row, or the readout's alone.

Counted are: the quantities that a way takes out of the pass; the statements of its map;
multiply-adds, by PyTorch's own counter and by formula; bytes that autograd saves; the peak of all
that is alive at once; the time. Graphs begin at q, k and v.

Three verdicts in place of one, with rules that were written before the numbers were looked at.
Each method stands in its cheapest form, over the readout's row, in float64 on the processor:

- *quantities and code*: Attention-ECLIP as published takes fewer quantities out of the pass than
  Grad-ECLIP as published, and its map takes no more statements: shown. More quantities:
  contradicted. Else not shown.
- *arithmetic*: multiply-adds lower by more than 1 % are shown, higher by more than 1 %
  contradicted; within 1 % they are equal, which is not shown.
- *time and memory*: peak bytes count as equal within 1 %, time where the 95 % interval of the
  paired ratio holds 1. One of them lower and none higher is shown; one higher and none lower is
  contradicted; else not shown.
"""

import ast
import inspect
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from heatproof.engine.memory import MemoryTracker
from heatproof.evaluation.store import Part
from heatproof.methods.eclip import min_max
from heatproof.proofs.cost import saved_for_backward
from heatproof.recipes.grad_eclip_paper.context import Study
from heatproof.recipes.grad_eclip_paper.numbers import mean

Rows = Literal["all", "readout"]
VIT_B_16 = (197, 768, 12)
SCALED = 1 + 0.01
"""Counts within 1 % are equal."""
REPEATS, QUICK_REPEATS = 30, 5


@dataclass(frozen=True, eq=False, kw_only=True)
class LastLayer:
    """The last attention layer of a vision transformer, from its entering tokens to the score."""

    tokens: Float[Tensor, "token width"]
    inward: Float[Tensor, "width three_widths"]
    outward: Float[Tensor, "width width"]
    target: Float[Tensor, " width"]
    heads: int

    def project(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v by head; q of the rows that are asked for (the readout is token 0)."""
        width = self.tokens.shape[1]
        asked = self.tokens if rows == "all" else self.tokens[:1]
        query = asked @ self.inward[:, :width]
        key, value = (self.tokens @ self.inward[:, width:]).chunk(2, dim=-1)
        return self.split(query), self.split(key), self.split(value)

    def split(self, tokens: Float[Tensor, "token width"]) -> Float[Tensor, "head token channel"]:
        """Deal the channels to the heads."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(0, 1)

    def score(self, output: Float[Tensor, "head row channel"]) -> Float[Tensor, ""]:
        """Return the cosine of the readout, row 0 of the attention's output, with the target."""
        readout = self.tokens[0] + output[:, 0].flatten() @ self.outward
        return F.normalize(readout, dim=-1) @ self.target

    def spatial(self, query: Tensor, key: Tensor) -> Float[Tensor, " token"]:
        """Return u: the min-max normalised cosine of the readout's query and all keys."""
        rows, keys = (t.transpose(0, 1).flatten(1).detach() for t in (query[:, :1], key))
        cosine = F.normalize(rows, dim=-1) @ F.normalize(keys, dim=-1).T
        return min_max(cosine.unsqueeze(0), slice(1, None))[0, 0]


def random_layer(sizes: tuple[int, int, int], seed: int) -> LastLayer:
    """Draw a layer of (tokens, width, heads), in float64."""
    tokens, width, heads = sizes
    chance = torch.Generator().manual_seed(seed)
    drawn = [
        torch.randn(*size, generator=chance, dtype=torch.float64) / width**0.5
        for size in ((tokens, width), (width, 3 * width), (width, width), (width,))
    ]
    # The entering tokens are of unit scale; weights keep it.
    return LastLayer(
        tokens=drawn[0] * width**0.5,
        inward=drawn[1],
        outward=drawn[2],
        target=F.normalize(drawn[3], dim=-1),
        heads=heads,
    )


# --- the ways ------------------------------------------------------------------------------------


def grad_eclip_here(layer: LastLayer, rows: Rows) -> Tensor:
    """Compute g . v with the attention's output as the leaf, behind a fused kernel."""
    query, key, value = layer.project(rows)
    output = F.scaled_dot_product_attention(query, key, value)[:, :1].requires_grad_()
    (gradient,) = torch.autograd.grad(layer.score(output), output)
    sums = (value @ gradient.transpose(1, 2)).sum(0)[:, 0]
    return layer.spatial(query, key) * sums


def grad_eclip_published(layer: LastLayer, rows: Rows) -> Tensor:
    """Compute g . v with the softmax written out and in the graph."""
    query, key, value = (t.requires_grad_() for t in layer.project(rows))
    weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
    output = weights @ value
    (gradient,) = torch.autograd.grad(layer.score(output), output)
    sums = (value.detach() @ gradient[:, :1].transpose(1, 2)).sum(0)[:, 0]
    return layer.spatial(query, key) * sums


def attention_eclip_published(layer: LastLayer, rows: Rows) -> Tensor:
    """Compute dS/dA with the softmax written out and in the graph."""
    query, key, value = (t.requires_grad_() for t in layer.project(rows))
    weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
    output = weights @ value
    (gradient,) = torch.autograd.grad(layer.score(output), weights)
    return layer.spatial(query, key) * gradient[:, 0].sum(0)


def attention_eclip_here(layer: LastLayer, rows: Rows) -> Tensor:
    """Compute dS/dA with the weights as the leaf: they are formed, and nothing before them kept."""
    query, key, value = layer.project(rows)
    weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1).requires_grad_()
    output = weights @ value
    (gradient,) = torch.autograd.grad(layer.score(output), weights)
    return layer.spatial(query, key) * gradient[:, 0].sum(0)


def attention_eclip_zero_leaf(layer: LastLayer, rows: Rows) -> Tensor:
    """Compute dS/d(delta) of o_r + delta v at delta = 0, behind a fused kernel: no weights."""
    query, key, value = layer.project(rows)
    leaf = value.new_zeros(len(value), 1, value.shape[1]).requires_grad_()
    output = F.scaled_dot_product_attention(query, key, value)[:, :1] + leaf @ value
    (gradient,) = torch.autograd.grad(layer.score(output), leaf)
    return layer.spatial(query, key) * gradient[:, 0].sum(0)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to the map.

    captured: what it takes out of the pass.
    statements_of_pass: those of its function that are the forward pass itself.
    """

    name: str
    compute: Callable[[LastLayer, Rows], Tensor]
    captured: tuple[str, ...]
    statements_of_pass: int
    note: str


WAYS: dict[str, Way] = {
    way.name: way
    for way in (
        Way(
            name="Grad-ECLIP, as published",
            compute=grad_eclip_published,
            captured=("queries", "keys", "values", "gradient of the output"),
            statements_of_pass=3,
            note="softmax written out, in the graph",
        ),
        Way(
            name="Grad-ECLIP, as built here",
            compute=grad_eclip_here,
            captured=("queries", "keys", "values", "gradient of the output"),
            statements_of_pass=2,
            note="fused kernel; the output is the leaf",
        ),
        Way(
            name="Attention-ECLIP, as published",
            compute=attention_eclip_published,
            captured=("queries", "keys", "gradient of the weights"),
            statements_of_pass=3,
            note="softmax written out, in the graph",
        ),
        Way(
            name="Attention-ECLIP, as built here",
            compute=attention_eclip_here,
            captured=("queries", "keys", "gradient of the weights"),
            statements_of_pass=3,
            note="the weights are the leaf",
        ),
        Way(
            name="Attention-ECLIP, zero leaf",
            compute=attention_eclip_zero_leaf,
            captured=("queries", "keys", "values", "gradient of the leaf"),
            statements_of_pass=3,
            note="fused kernel; a zero beside the readout's row, values enter the pass again",
        ),
    )
}
PUBLISHED = ("Grad-ECLIP, as published", "Attention-ECLIP, as published")
CHEAPEST = ("Grad-ECLIP, as built here", "Attention-ECLIP, zero leaf")


def statements(way: Way) -> int:
    """Count the statements of a way's map: those of its function without the forward pass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(way.compute)))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    return len(function.body) - 1 - way.statements_of_pass  # the docstring is a statement


def multiply_adds(name: str, sizes: tuple[int, int, int], rows: Rows) -> int:
    """Count multiply-adds by formula: products of matrices, forward and backward, and u.

    n tokens, width w, m query rows; a backward pass is counted where a gradient goes.
    """
    n, w, _ = sizes
    m = n if rows == "all" else 1
    project = (m + 2 * n) * w * w
    attend = 2 * m * n * w
    # Through W_O. The cosine's own product is one of vectors, which the counter leaves out.
    score = w * w
    back = w * w
    spatial = n * w
    forward = project + attend + score + back + spatial
    extra = {
        "Grad-ECLIP, as published": n * w,
        "Grad-ECLIP, as built here": n * w,
        # The backward of A v by A, of all rows that were computed.
        "Attention-ECLIP, as published": m * n * w,
        "Attention-ECLIP, as built here": m * n * w,
        # The leaf's product with v, and back.
        "Attention-ECLIP, zero leaf": 2 * n * w,
    }
    return forward + extra[name]


# --- measuring -----------------------------------------------------------------------------------


def measure(study: Study) -> Part:
    """Count and time all ways on one layer of ViT-B/16's size."""
    repeats = QUICK_REPEATS if study.quick else REPEATS
    study.watch("simpler, counted", 0, 1)
    part = study.store.part("a-simplicity", lambda: counted(VIT_B_16, study.seed, repeats))
    study.watch("simpler, counted", 1, 1)
    return part


def counted(sizes: tuple[int, int, int], seed: int, repeats: int = REPEATS) -> Part:
    """Return all counts of all ways, the largest difference of their maps, and three verdicts."""
    layer = random_layer(sizes, seed)
    scopes: tuple[Rows, ...] = ("all", "readout")
    maps = [way.compute(layer, rows) for way in WAYS.values() for rows in scopes]
    largest = max(float((other - maps[0]).abs().max()) for other in maps[1:])
    ways: dict[str, Part] = {}
    for name, way in WAYS.items():
        ways[name] = {
            "captured": list(way.captured),
            "statements": statements(way),
            "note": way.note,
            **{rows: _counts(way, layer, sizes, rows) for rows in scopes},
        }
    seconds = _times(layer, repeats)
    for name, values in seconds.items():
        ways[name]["seconds"] = float(torch.tensor(values).median())
    first, second = (torch.tensor(seconds[name]) for name in CHEAPEST)
    ratio = mean(second / first)
    return {
        "sizes": {"tokens": sizes[0], "width": sizes[1], "heads": sizes[2]},
        "threads": torch.get_num_threads(),
        "largest difference": largest / float(maps[0].abs().max()),
        "ways": ways,
        "time ratio": ratio,
        "verdicts": verdicts(ways, ratio),
    }


def _counts(way: Way, layer: LastLayer, sizes: tuple[int, int, int], rows: Rows) -> Part:
    with FlopCounterMode(display=False) as counter:
        way.compute(layer, rows)
    own = [layer.tokens, layer.inward, layer.outward, layer.target]
    with saved_for_backward(own) as saved:
        way.compute(layer, rows)
    with MemoryTracker(own) as tracker:
        way.compute(layer, rows)
    return {
        "multiply-adds, counted": counter.get_total_flops() // 2,
        "multiply-adds, by formula": multiply_adds(way.name, sizes, rows),
        "saved tensors": len(saved),
        "saved bytes": sum(storage.nbytes() for storage in saved.values()),
        "peak bytes": tracker.peak,
    }


def _times(layer: LastLayer, repeats: int) -> dict[str, list[float]]:
    """Time all ways in turn, over the readout's row, so that a slow moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(repeats + 3):
        for name, way in WAYS.items():
            start = time.perf_counter()
            way.compute(layer, "readout")
            # The first rounds pay for caches.
            if number >= 3:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def verdicts(ways: Part, ratio: Part) -> dict[str, str]:
    """Apply the three rules (see the module) to the counts."""
    grad, attention = (ways[name] for name in PUBLISHED)
    quantities = [len(way["captured"]) for way in (grad, attention)]
    lines = [way["statements"] for way in (grad, attention)]
    first = "not shown"
    if quantities[1] > quantities[0]:
        first = "contradicted"
    elif quantities[1] < quantities[0] and lines[1] <= lines[0]:
        first = "shown"
    cheap = [ways[name]["readout"] for name in CHEAPEST]
    work = _against([counts["multiply-adds, counted"] for counts in cheap])
    memory = _against([counts["peak bytes"] for counts in cheap])
    low, high = ratio["low"], ratio["high"]
    clock = 0 if low is None or low <= 1 <= high else (-1 if high < 1 else 1)
    return {
        "quantities and code": first,
        "arithmetic": _verdict([work]),
        "time and memory": _verdict([memory, clock]),
    }


def _against(pair: Sequence[int]) -> int:
    """Return -1 where the second is lower by more than 1 %, 1 where it is higher, else 0."""
    if pair[1] * SCALED < pair[0]:
        return -1
    return int(pair[1] > pair[0] * SCALED)


def _verdict(signs: Sequence[int]) -> str:
    if -1 in signs and 1 not in signs:
        return "shown"
    return "contradicted" if 1 in signs and -1 not in signs else "not shown"


def rows_of(data: Part) -> list[list[str]]:
    """Return a table's rows: one per way, counts over the readout's row and over all rows."""
    return [
        [
            name,
            str(len(way["captured"])),
            str(way["statements"]),
            *(f"{way[scope]['multiply-adds, counted'] / 1e6:,.1f}" for scope in ("readout", "all")),
            *(f"{way[scope]['saved bytes'] / 1024:,.0f}" for scope in ("readout", "all")),
            *(f"{way[scope]['peak bytes'] / 1024:,.0f}" for scope in ("readout", "all")),
            f"{1000 * way['seconds']:.2f}",
        ]
        for name, way in data["ways"].items()
    ]
