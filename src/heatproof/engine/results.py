"""What all batches of one explanation gave, put together on the CPU, and its evidence."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.certificate import ParitySample
from heatproof.engine.certify import Evidence
from heatproof.engine.following import PromptTracking, join
from heatproof.engine.forward import Attribution
from heatproof.methods.pass_context import Batch, Side

# Of a call with more images than this, a sample is compared with the untouched model: one image of
# so many, rounded up. A smaller call is cheap to compare as a whole, and a sample would miss much.
ALL_UP_TO = 4
ONE_OF = 8

Measure = Callable[[Float[Tensor, "item target token"]], PromptTracking]


def sample_of(images: int, first: int, seed: int) -> Int[Tensor, " compared"]:
    """Draw the images of a call whose explained pass is compared with the untouched model.

    first: the number of the first image in the whole run, so that batches of a run differ.
    """
    if images <= ALL_UP_TO:
        return torch.arange(images)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + first) % 2**63)
    return torch.randperm(images, generator=generator)[: -(-images // ONE_OF)].sort().values


class BatchResults:
    """The attributions of all batches, side by side.

    measure: measures how maps follow their prompts, on the device where they were computed.
    """

    def __init__(self, measure: Measure | None = None) -> None:
        self.measure = measure
        self.attributions: list[Attribution] = []
        self.tracking: list[PromptTracking] = []
        self._values: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._finite: list[Tensor] = []
        self._own: list[Tensor] = []
        self.compared = np.zeros(0, dtype=bool)
        self.readout: list[int | None] = []
        self.content = slice(0)

    def add(
        self,
        batch: Batch,
        attribution: Attribution,
        untouched: Float[Tensor, "item target"],
        compared: bool,
    ) -> None:
        """Take in one batch's results and the untouched model's scores of it.

        compared: whether these are of a pass of their own.
        """
        values, items = attribution.values, len(attribution.scores)
        if self.measure is not None:
            self.tracking.append(self.measure(values))
        # Null prompts come last, and have served their purpose.
        values = values[:, : batch.asked or values.shape[1]]
        self.attributions.append(attribution)
        self._values.append(values.cpu())
        self._sums.append(values.sum(-1).cpu())
        self._finite.append(values.isfinite().all(-1).cpu())
        self._own.append(untouched.cpu())
        self.compared = np.append(self.compared, np.full(items, compared))
        self.content = batch.content
        rows = [None] * items if batch.readout is None else batch.readout.tolist()
        self.readout.extend(rows)

    @cached_property  # asked for when all are there
    def values(self) -> Float[Tensor, "item target token"]:
        """The method's values for the targets that were asked for."""
        return torch.cat(self._values)

    @cached_property
    def errors(self) -> Float[Tensor, "item target token"] | None:
        """Standard errors of the values; None where the method has none."""
        parts = [part.errors for part in self.attributions]
        known = [part.cpu() for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None

    @cached_property
    def untouched(self) -> Float[Tensor, "item target"]:
        """The model's own scores."""
        return torch.cat(self._own)

    @cached_property
    def explained(self) -> Float[Tensor, "item target"]:
        """The scores of the pass that was explained."""
        return torch.cat([attribution.scores.cpu() for attribution in self.attributions])

    def follows(self) -> PromptTracking:
        """Return what was measured of all maps."""
        return join(self.tracking)

    def take(self, items: Int[Tensor, " some"], scores: Float[Tensor, "some target"]) -> None:
        """Take in scores of some items by the untouched model, run by itself."""
        self.untouched[items] = scores.to(self.untouched)
        self.compared[items.numpy()] = True

    def evidence(self, side: Side, names: tuple[Sequence[str], Sequence[str]]) -> Evidence:
        """Return what a certificate needs, of the targets that are named."""
        targets, parts = len(names[1]), self.attributions
        totals = [part.total.cpu() for part in parts if part.total is not None]
        total = torch.cat(totals)[:, :targets] if totals else None
        rows = [part.live_rows.cpu() for part in parts if part.live_rows is not None]
        gaps = [part.row_gaps.cpu() for part in parts if part.row_gaps is not None]
        live = torch.cat(rows).numpy() if rows else None
        untouched = self.untouched[:, :targets]
        return Evidence(
            side=side,
            names=names,
            untouched=untouched.double().numpy(),
            explained=self.explained[:, :targets].double().numpy(),
            compared=self.compared,
            sums=torch.cat(self._sums).numpy(),
            total=None if total is None else total.numpy(),
            live_rows=live,
            described_rows=None if live is None else self._described_rows(live.shape),
            row_gaps=None if live is not None else torch.cat(gaps).double().numpy(),
            has_gradient={
                path: torch.cat([part.has_gradient[path][:, :targets].cpu() for part in parts])
                .bool()
                .numpy()
                for path in parts[0].has_gradient
            },
            finite=torch.cat(self._finite).numpy(),
            largest_score=max(1.0, float(untouched.abs().max())),
            largest_total=1.0 if total is None else max(1.0, float(total.abs().max())),
            sample=ParitySample(int(self.compared.sum()), len(self.compared)),
        )

    def _described_rows(self, size: Sequence[int]) -> Bool[np.ndarray, "item query"]:
        rows = np.zeros(tuple(size), dtype=bool)
        for item, row in enumerate(self.readout):
            rows[item, self.content if row is None else row] = True
        return rows
