"""Changes of weights that leave the function alone: each breaks what was planted, and no more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import strangers
import tiny
from audits import on
from families import FAMILIES, model_of, picture
from heatproof.auditing.checks.reparametrisation import CHANGES, ReparametrisationCheck
from heatproof.errors import ReadingError
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign, Method, MethodCard, Plan, ReadPass, Side
from heatproof.models import Model
from heatproof.reading import Attention, AttentionLayer, weight_edits
from heatproof.reading.attention_weights import attention_weights


@dataclass(frozen=True)
class Planted(Method):
    """One value a key, from the last call alone, by `value`: (item, key)."""

    value: Callable[[Attention], Tensor]
    card: ClassVar[MethodCard] = MethodCard(
        name="planted", summary="", source="test", reads="", changes="nothing", values="", cost=""
    )

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        return Plan(paths=(sites[-1].path,), weights=True, start=None)

    def attribute(self, read: ReadPass) -> Tensor:
        return self.value(read.last)[:, None].expand(-1, read.targets, -1)


def of_weights(layer: Attention) -> Tensor:
    assert layer.weights is not None
    return layer.weights


# What the value depends on, and the only change that may break it.
PLANTED: dict[str, Callable[[Attention], Tensor]] = {
    "values": lambda layer: layer.value.norm(dim=-1).mean(1),
    # Queries and keys centred over the tokens: a shift of all keys does not show.
    "scale": lambda layer: (layer.key - layer.key.mean(2, keepdim=True)).norm(dim=-1).mean(1),
    # A logit itself: scaling and mixing leave it, the shift moves it.
    "shift": lambda layer: (layer.query[:, :, :1] @ layer.key.mT).tanh().mean((1, 2)),
    "order": lambda layer: of_weights(layer)[:, 0, 0],
}
NONE = lambda layer: of_weights(layer)[:, :, 0].mean(1)  # noqa: E731


@pytest.fixture(scope="module")
def vit() -> Model:
    return tiny.open_clip_vit()


def texts(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, tiny.EMBED, generator=generator, dtype=torch.float64)


def broken(model: Model, method: Method) -> tuple[str, set[str]]:
    found = ReparametrisationCheck().measure(Subject(method), on(model, picture(model), texts()))
    changes = found.numbers["changes"]
    assert all(each["function preserved"] for each in changes.values())
    return found.verdict, {name for name, each in changes.items() if each["breaks the map"]}


@pytest.mark.parametrize("name", PLANTED)
def test_each_change_breaks_what_depends_on_it_and_nothing_else(vit: Model, name: str) -> None:
    assert broken(vit, Planted(PLANTED[name])) == ("violated", {name})


def test_a_map_of_the_function_holds(vit: Model) -> None:
    assert broken(vit, Planted(NONE)) == ("holds", set())


def test_a_map_of_nothing_cannot_be_told(vit: Model) -> None:
    found = ReparametrisationCheck().measure(Subject.of("center"), on(vit, picture(vit), texts()))
    assert found.verdict == "cannot tell"
    assert found.numbers["control"]["map"] == 0


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_function_stays_on_every_family(family: str, change: str) -> None:
    """To 1e-12; where a norm follows the values (EVA), or keys have no bias, the check says so."""
    model, pixels = model_of(family), picture(model_of(family), 1)
    sites = model.attention_layers("image", pixels.shape[-2:])
    views, unknown = attention_weights(model.module, sites)
    assert not unknown
    with torch.no_grad():
        before = model.image.encode(pixels)
        with weight_edits.temporary_weights(model.module, restore="swap"):
            chance = torch.Generator().manual_seed(1)
            changed = [CHANGES[change][0](view, chance) for view in views]
            weights = weight_edits.fingerprint(model.module)
            after = model.image.encode(pixels)
        assert torch.equal(model.image.encode(pixels), before)
    if change == "shift" and family in NO_KEY_BIAS:
        assert not any(changed)
        return
    assert any(changed)
    assert weights != weight_edits.fingerprint(model.module)
    preserved = float((after - before).norm() / before.norm()) < 1e-12
    assert preserved is ((family, change) not in NOT_PRESERVED)


NO_KEY_BIAS = {"open_clip mobileclip-s", "open_clip eva"}
NOT_PRESERVED = {("open_clip eva", "values"), ("open_clip eva", "order")}  # it norms the values


def test_weights_are_put_back_bit_for_bit_after_errors(vit: Model) -> None:
    before = {name: each.clone() for name, each in vit.module.state_dict().items()}
    places = [each.data_ptr() for each in weight_edits.tensors_of(vit.module)]

    def failing(pixels: Tensor, prompt: str) -> Tensor:
        raise ReadingError(f"no {prompt} for {len(pixels)} channels")

    subject = Subject(Foreign(failing, takes="pixels"))
    with pytest.raises(ReadingError, match="no embedding 0 for 3"):
        ReparametrisationCheck().measure(subject, on(vit, picture(vit), texts()))
    assert all(torch.equal(before[name], each) for name, each in vit.module.state_dict().items())
    assert places == [each.data_ptr() for each in weight_edits.tensors_of(vit.module)]


def test_a_stranger_with_float32_tensors_is_checked_in_float32() -> None:
    model = tiny.open_clip_vit(torch.float32)
    prompts = texts(1).float()
    stranger = strangers.captum_method(model.module, {"embedding 0": prompts[0]}, "InputXGradient")
    subject = Subject(Foreign(stranger, takes="pixels"))
    found = ReparametrisationCheck().measure(subject, on(model, picture(model, 1), prompts))
    assert (found.numbers["dtype"], found.verdict) == ("float32", "holds")
    assert model.dtype == torch.float32


def test_a_map_that_differs_from_run_to_run_is_not_accused(vit: Model) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = lambda picture, prompt: torch.randn(3, 5, generator=generator)  # noqa: E731, ARG005
    subject = Subject(Foreign(noise, takes="pixels"))
    found = ReparametrisationCheck().measure(subject, on(vit, picture(vit, 1), texts(1)))
    assert found.verdict == "cannot tell"
