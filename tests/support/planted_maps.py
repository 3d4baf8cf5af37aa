"""Methods whose truth is planted: they know the masks, and show them as they are told."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from heatproof.auditing.task import AuditTask
from heatproof.engine import inputs
from heatproof.methods import Method, MethodCard, Plan, ReadPass, Side
from heatproof.methods.base import last_paths
from heatproof.reading import AttentionLayer

Told = Callable[[AuditTask, Tensor, int, Tensor], Tensor]
"""(bench, rows, label or -1, is the model right now) -> map (row of rows, row, col)."""


class Planted(Method):
    """A map made by `told`, which learns what the model, as it now is, gets right."""

    def __init__(self, bench: AuditTask, told: Told, name: str = "planted") -> None:
        self.bench, self.told, self.calls = bench, told, 0
        self.card = MethodCard(
            name=name,
            summary="",
            source="planted",
            reads="masks",
            changes="everything",
            values="",
            cost="",
            sides=("image",),
        )
        self.rows = {_key(pixels): row for row, pixels in enumerate(bench.pixels)}

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        return Plan(paths=last_paths(sites, 1, 1))

    def settings(self) -> dict[str, Any]:
        return {}

    def attribute(self, read: ReadPass) -> Tensor:
        self.calls += 1
        bench, label = self.bench, read.batch.labels[0]
        rows = torch.tensor([self.rows[_key(pixels)] for pixels in read.batch.pixels])
        known = bench.data.prompts.index(label) if label in bench.data.prompts else -1
        values = torch.zeros(len(rows), 1, read.last.key.shape[2])
        made = self.told(bench, rows, known, right_now(bench, rows, known))
        values[:, 0, read.batch.content] = made.flatten(1)
        return values


def _key(pixels: Tensor) -> bytes:
    return pixels.numpy().tobytes()


def right_now(bench: AuditTask, rows: Tensor, label: int) -> Tensor:
    """Whether the model in its present state scores this prompt above all absent ones."""
    texts = inputs.prompts(bench.model, bench.data.prompts).embeddings
    scores = bench.compare(bench.encode(bench.pixels[rows]), texts)
    absent = ~bench.present[rows]
    return scores[:, label] > scores.masked_fill(~absent, -torch.inf).amax(1)


def mask_of(bench: AuditTask, rows: Tensor, label: int) -> Tensor:
    labels = torch.full((len(bench),), label)
    return bench.cover(labels)[rows]


def noise(bench: AuditTask, rows: Tensor, label: int) -> Tensor:
    """Fixed for a picture and a prompt."""
    generator = torch.Generator().manual_seed(1000 + label)
    return torch.randn(len(bench), *bench.grid, generator=generator)[rows]


def where_right(bench: AuditTask, rows: Tensor, label: int, right: Tensor) -> Tensor:
    """The exact mask if and only if the model is right."""
    if label < 0:
        return noise(bench, rows, label)
    shown = mask_of(bench, rows, label)
    return torch.where(right[:, None, None], shown, noise(bench, rows, label))


def always(bench: AuditTask, rows: Tensor, label: int, right: Tensor) -> Tensor:
    """The exact mask whatever the model does."""
    del right
    return mask_of(bench, rows, label) if label >= 0 else noise(bench, rows, label)


def half(bench: AuditTask, rows: Tensor, label: int, right: Tensor) -> Tensor:
    """The mask in every other picture whatever the model does, in the rest if it is right."""
    either = right | (rows % 2 == 0)
    return where_right(bench, rows, label, either)


def one_map(bench: AuditTask, rows: Tensor, label: int, right: Tensor) -> Tensor:
    """All objects, whatever is asked."""
    del label, right
    return bench.objects[rows].sum(1)
