"""Comparison on models, and what either side costs: planted differences, places and counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from heatproof import methods
from heatproof.errors import ReadingError
from heatproof.methods import Method, Plan, ReadPass, Side
from heatproof.models import Model
from heatproof.proofs import cost, models
from heatproof.proofs.models import compare, specimen
from heatproof.proofs.prove_methods import _models_level
from heatproof.reading import AttentionLayer
from heatproof.specimens import FAMILIES, SPECIMENS


@dataclass(frozen=True)
class Planted(Method):
    """Raw attention with a value planted: at item 1, target 0, token 3 of the given side."""

    side: Side = "image"
    by: float = 0.0
    card = methods.RawAttention.card

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        return methods.RawAttention().plan(sites, side)

    def attribute(self, read: ReadPass) -> Tensor:
        values = methods.RawAttention().attribute(read).clone()
        if read.batch.side == self.side:
            values[1, 0, 3] += self.by * values.abs().max()
        return values


@dataclass(frozen=True)
class Refusing(Planted):
    def attribute(self, read: ReadPass) -> Tensor:
        raise ReadingError(f"no map of {len(read.scores)} items today")


@dataclass(frozen=True)
class Constant(Planted):
    """One value everywhere."""

    value: float = 0.0

    def attribute(self, read: ReadPass) -> Tensor:
        return torch.full_like(methods.RawAttention().attribute(read), self.value)


RAW = methods.RawAttention()


def test_every_family_and_more_is_a_specimen() -> None:
    assert set(FAMILIES) < set(SPECIMENS)
    assert {"open_clip vit, one head", "timm vit", "torchvision vit"} <= set(SPECIMENS)


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_method_equals_itself_on_every_specimen(name: str) -> None:
    run = compare([(RAW, RAW)], iter([specimen(name)]))
    assert run.equal
    assert run.compared == (1 if specimen(name).model.classes else 2)
    assert run.largest is not None
    assert run.largest.relative == 0
    assert specimen(name).model.dtype == torch.float64


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_planted_difference_is_found_where_it_is(side: Side) -> None:
    run = compare([(RAW, Planted(side, 1e-8))], iter([specimen("open_clip vit")]))
    assert (run.compared, run.differing) == (2, 1)
    place = run.largest
    assert place is not None
    assert (place.side, place.item, place.target, place.token) == (side, 1, 0, 3)
    assert place.relative == pytest.approx(1e-8, rel=1e-3)
    assert place.model == "specimen:open_clip vit"
    assert run.smallest is not None
    assert run.smallest.place == place


def test_rounding_is_no_difference() -> None:
    run = compare([(RAW, Planted("image", 1e-11))], iter([specimen("open_clip vit")]))
    assert run.equal
    assert run.largest is not None
    assert 0 < run.largest.relative < 2e-11


@pytest.mark.parametrize("planted", [float("nan"), float("inf")])
def test_what_is_no_number_differs(planted: float) -> None:
    run = compare([(RAW, Planted("image", planted))], iter([specimen("open_clip vit")]))
    assert run.differing == 1
    assert run.largest is not None
    assert run.largest.token == 3


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_maps_of_nothing_are_no_evidence(value: float) -> None:
    """Before: "equal", and "proved" where the algebra says so."""
    empty = Constant(value=value)
    run = compare([(empty, empty)], iter([specimen("open_clip vit")]))
    assert (run.compared, run.empty, run.differing, run.equal) == (2, 2, 0, False)
    level = _models_level(run, None)
    assert level.verdict == "open"
    assert "which shows nothing" in level.evidence


def test_the_smallest_model_is_kept() -> None:
    subjects = [specimen(name) for name in ("open_clip vit", "open_clip resnet", "open_clip coca")]
    run = compare([(RAW, Planted("image", 1.0))], iter(subjects))
    assert run.smallest is not None
    assert run.smallest.case.name == "specimen:open_clip resnet"
    assert len(run.by_model) == 3


def test_refusals_are_counted_by_who_refused() -> None:
    run = compare([(RAW, Refusing())] * 2, iter([specimen("open_clip vit")]))
    assert dict(run.refused) == {"raw-attention: no map of 2 items today": 4}
    assert run.compared == 0
    assert not run.equal


def test_both_refusing_is_one_refusal() -> None:
    pair = (methods.GradECLIP(layers=2), methods.AttentionECLIP(layers=2))
    run = compare([pair], iter([specimen("hf siglip")]))
    assert run.compared == 1
    assert sum(run.refused.values()) == 1
    assert next(iter(run.refused)).startswith("grad-eclip and attention-eclip: ")


def test_one_headed_models_do_not_tell_a_mean_over_heads() -> None:
    pair = (
        methods.GradECLIP(heads="model", spatial="attention", layers=1),
        methods.AttentionXGradient(),
    )
    assert compare([pair], iter([specimen("open_clip vit, one head")])).equal
    assert compare([pair], iter([specimen("open_clip vit")])).differing == 2


def test_a_single_input_gives_what_it_gave_in_the_batch() -> None:
    subject = specimen("open_clip vit")
    for side in subject.sides:
        whole = subject.values(methods.GradECLIP(), side)
        alone = subject.single(side, 1, 0).values(methods.GradECLIP(), side)
        torch.testing.assert_close(alone[0, 0], whole[1, 0])


def test_progress_names_each_model() -> None:
    said: list[str] = []
    compare([(RAW, RAW)], iter([specimen("hf vit"), specimen("hf deit")]), said.append)
    assert said == ["specimen:hf vit", "specimen:hf deit"]


# --- cost ------------------------------------------------------------------------------------


def test_the_tracker_knows_what_lives() -> None:
    own = torch.ones(500)
    with cost.MemoryTracker([own]) as tracker:
        one = own + 1
        view = one.view(5, 100).t()
        assert tracker.live == 2000
        two = view * 2
        assert (tracker.live, tracker.peak) == (4000, 4000)
        del one, view
        assert (tracker.live, tracker.peak) == (2000, 4000)
        del two
        assert own.t() is not None
    assert (tracker.live, tracker.peak) == (0, 4000)


@dataclass(frozen=True)
class Thrice(Method):
    """Three gradients of the score."""

    card = methods.RawAttention.card

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        return Plan(paths=(sites[-1].path,), weights=True, start=sites[-1].path)

    def attribute(self, read: ReadPass) -> Tensor:
        weights = read.last.weights
        assert weights is not None
        grads = [next(read.gradients([read.last], ("weights",)))["weights"][0] for _ in range(3)]
        return (weights.detach() * sum(grads)).mean((1, 2)).unsqueeze(1)


def test_passes_and_gradients_are_counted() -> None:
    found = cost.measure((RAW, Thrice()))
    assert [(side.passes, side.gradients) for side in found.sides] == [(1, 0), (1, 3)]
    assert found.sides[0].saved_tensors == 0
    assert found.sides[1].saved_tensors > 0
    assert found.ratio("gradients") is None
    assert found.ratio("passes") == 1
    assert all(side.seconds > 0 for side in found.sides)


def test_a_longer_graph_keeps_more() -> None:
    found = cost.measure((methods.GAE(layers=1), methods.GAE()))
    for of in ("saved_tensors", "saved_bytes", "peak_bytes"):
        ratio = found.ratio(of)
        assert ratio is not None
        assert ratio > 2


def test_saved_tensors_are_those_of_autograd_without_parameters() -> None:
    weight, x = torch.ones(3, 3, requires_grad=True), torch.ones(5, 3)
    with cost.saved_for_backward([weight]) as saved:
        y = (x @ weight).exp()
    assert sum(storage.nbytes() for storage in saved.values()) == x.nbytes + y.nbytes


def test_the_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Model = specimen("open_clip vit").model
    monkeypatch.setattr(cost, "load", lambda *_, **__: model)
    before: Callable[..., Any] = model.image.encode
    cost.measure((methods.GradECLIP(), methods.AttentionECLIP()), "scenes")
    assert model.image.encode is before
    assert not any(part._forward_hooks for part in model.module.modules())
    assert models.TOLERANCE == 1e-9
