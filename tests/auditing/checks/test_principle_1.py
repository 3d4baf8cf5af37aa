"""Parity, readout and implied model, both verdicts of each; and all checks in one call."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import heatproof
import strangers
import tiny
from audits import on
from families import picture
from heatproof import methods
from heatproof.auditing import comparison, zero_shot
from heatproof.auditing.base import checks
from heatproof.auditing.checks.implied_model import ImpliedModelCheck, tower_of
from heatproof.auditing.checks.parity import ParityCheck
from heatproof.auditing.checks.readout import ReadoutCheck
from heatproof.auditing.run import run_checks
from heatproof.evaluation.subject import Subject
from heatproof.methods import (
    ExplainedTower,
    Factors,
    Foreign,
    Method,
    MethodCard,
    Plan,
    ReadPass,
    Side,
)
from heatproof.models import Model
from heatproof.reading import AttentionLayer, reading, weight_edits
from heatproof.reading.interventions import one_head


@pytest.fixture(scope="module")
def vit() -> Model:
    return tiny.open_clip_vit()


def texts(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, tiny.EMBED, generator=generator, dtype=torch.float64)


def unit_scores(embeddings: Tensor, prompts: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize
    return unit(embeddings, dim=-1) @ unit(prompts, dim=-1).T


def one_headed(model: Model, pixels: Tensor) -> Tensor:
    path = "visual.transformer.resblocks.1.attn"
    with torch.no_grad(), reading(model.module, [], interventions={path: one_head()}):
        return model.image.encode(pixels)


# --- parity -----------------------------------------------------------------------------------


def test_parity_of_the_published_map_is_violated_by_the_gap_of_one_head(vit: Model) -> None:
    found = ParityCheck().measure(Subject.of("grad-eclip"), on(vit, picture(vit), texts()))
    cell = found.numbers["sides"]["image"]["float64"]
    with torch.no_grad():
        yours = unit_scores(vit.image.encode(picture(vit)), texts())
    theirs = unit_scores(one_headed(vit, picture(vit)), texts())
    assert found.verdict == "violated"
    assert cell["gap"] == pytest.approx(float((yours - theirs).abs().max()), rel=1e-9)
    assert cell["best prompt flips"] == int((yours.argmax(1) != theirs.argmax(1)).sum())
    assert set(found.numbers["sides"]["image"]) == {"float64", "float32", "bfloat16"}
    assert vit.dtype == torch.float64
    assert "eclip" in found.code


def test_parity_holds_in_every_dtype(vit: Model) -> None:
    found = ParityCheck().measure(Subject.of("gae"), on(vit, picture(vit), texts()))
    assert found.verdict == "holds"
    assert "text" in found.numbers["left out"]


def test_parity_of_words_is_measured_too() -> None:
    model = heatproof.load("scenes")
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = ParityCheck().measure(
        Subject.of("grad-eclip", heads="one"), on(model, pixels, ["a red circle", "a square"])
    )
    assert found.numbers["sides"]["text"]["float32"]["gap"] > 1e-3
    assert "text side" in found.evidence


# --- readout ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surrogate(Method):
    """Differentiates the score of the mean of the values, as if it were the embedding."""

    card: ClassVar[MethodCard] = MethodCard(
        name="surrogate", summary="", source="test", reads="", changes="", values="", cost=""
    )

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        return Plan(paths=(sites[-1].path,), weights=True, start=sites[-1].path)

    def attribute(self, read: ReadPass) -> Tensor:
        width = tiny.EMBED
        vector = read.last.output.mean(2).flatten(1)[:, :width]
        assert read.last.weights is not None
        maps: list[Tensor] = []
        for target in range(read.targets):
            score = read.batch.compare(vector)[:, target].sum()
            (grad,) = torch.autograd.grad(score, [read.last.weights], retain_graph=True)
            maps.append(grad.mean((1, 2)))
        return torch.stack(maps, 1)

    def factors(self, side: Side) -> Factors:
        del side
        return Factors(("gradients",))


def test_a_surrogate_is_told_from_the_models_output(vit: Model) -> None:
    assert (
        ReadoutCheck().measure(Subject(Surrogate()), on(vit, picture(vit), texts())).verdict
        == "violated"
    )
    found = ReadoutCheck().measure(
        Subject.of("attention-x-gradient"), on(vit, picture(vit), texts())
    )
    assert found.verdict == "holds"
    assert found.numbers["rows agree"] is True
    assert found.numbers["differentiated"]["own"] == 2


def test_a_wrongly_described_readout_is_told(vit: Model) -> None:
    from dataclasses import replace

    wrong = replace(vit, image=replace(vit.image, readout=replace(vit.image.readout, row=1)))
    found = ReadoutCheck().measure(Subject.of("raw-attention"), on(wrong, picture(vit), texts()))
    assert found.verdict == "violated"
    assert found.numbers["rows agree"] is False


def test_readout_of_maps_without_a_score(vit: Model) -> None:
    check = lambda name: ReadoutCheck().measure(Subject.of(name), on(vit, picture(vit), texts()))  # noqa: E731
    assert check("raw-attention").verdict == "not applicable"
    assert check("random").verdict == "violated"


def test_readout_of_strangers(vit: Model) -> None:
    known = {f"embedding {n}": each for n, each in enumerate(texts())}
    honest = strangers.captum_method(vit.module, known, "InputXGradient")
    other = strangers.by_its_own_layers(vit.module, known, one_head=True)
    for stranger, verdict in ((honest, "holds"), (other, "cannot tell")):
        subject = Subject(Foreign(stranger, takes="pixels"))
        assert ReadoutCheck().measure(subject, on(vit, picture(vit), texts())).verdict == verdict
    assert torch.autograd.grad.__module__ == "torch.autograd"


# --- implied model ----------------------------------------------------------------------------


def test_implied_model_is_the_one_headed_one(vit: Model) -> None:
    method = methods.create("grad-eclip", spatial="none")
    task = zero_shot.ZeroShotTask(picture(vit, 5), texts(), torch.tensor([0, 1, 2, 0, 1]), "a task")
    found = ImpliedModelCheck().measure(
        Subject(method), on(vit, picture(vit), texts(), zero_shot=task)
    )
    (name, measured), *rest = found.numbers["models"].items()
    with torch.no_grad():
        yours = vit.image.encode(picture(vit))
        theirs = one_headed(vit, picture(vit))
    cosine = torch.nn.functional.cosine_similarity(yours, theirs).mean()
    assert (name, rest, found.verdict) == ("one head", [], "violated")
    assert measured["embedding cosine"] == pytest.approx(float(cosine), rel=1e-9)
    named = unit_scores(one_headed(vit, picture(vit, 5)), texts()).argmax(1) == task.right
    assert measured["accuracy"]["hits"] == int(named.sum())
    assert "accuracy at a task" in found.evidence


def test_loosened_weights_take_the_place_of_the_softmax(vit: Model) -> None:
    """The readout's patches in proportion to u; the class token's share and other rows stay."""
    method = methods.create("grad-eclip", heads="model")
    seen: list[Tensor] = []

    def keep(call: Any) -> Any:
        (changes,) = method.implied(tower_of(vit, picture(vit))).values()
        changed = next(iter(changes.values()))(call)
        seen.extend([call.softmax(), changed.weights])
        return changed

    path = "visual.transformer.resblocks.1.attn"
    with torch.no_grad(), reading(vit.module, [path], interventions={path: keep}) as trace:
        vit.image.encode(picture(vit))
    own, changed = seen
    assert torch.equal(own[:, :, 1:], changed[:, :, 1:])
    torch.testing.assert_close(own[:, :, 0, 0], changed[:, :, 0, 0])
    torch.testing.assert_close(changed.sum(-1), torch.ones(2, 3, 16, dtype=torch.float64))
    layer, block = trace[path], vit.module.visual.transformer.resblocks[1]
    rows, keys = (t.transpose(1, 2).flatten(2) for t in (layer.query, layer.key))
    with torch.no_grad():
        rows, keys = block.attn.out_proj(rows), block.attn.out_proj(keys)
    cosine = torch.nn.functional.cosine_similarity(rows[:, :1], keys[:, 1:], dim=-1)
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    u = (cosine - low) / (high - low)
    expected = u / u.sum(1, keepdim=True)
    found = changed[:, 1, 0, 1:] / changed[:, 1, 0, 1:].sum(1, keepdim=True)
    torch.testing.assert_close(found, expected)


def test_what_a_mask_hides_gets_no_loosened_weight(vit: Model) -> None:
    """Text tokens behind the readout are hidden from it; the cosine would give them a share."""
    method = methods.create("grad-eclip", heads="model", layers=1)
    tokens = vit.text.tokenize(["a b"])
    readout, context = int(tokens.readout[0]), tokens.ids.shape[1]
    sites = vit.attention_layers("text", tokens.ids.shape[-1:])
    tower = ExplainedTower(vit.module, "text", sites, readout, slice(0, context))
    ((path, change),) = method.implied(tower)["loosened attention"].items()
    seen: list[Tensor] = []

    def keep(call: Any) -> Any:
        changed = change(call)
        seen.append(changed.weights)
        return changed

    with torch.no_grad(), reading(vit.module, [path], interventions={path: keep}):
        vit.text.encode(tokens)
    assert readout + 1 < context
    assert (seen[0][:, :, readout, readout + 1 :] == 0).all()
    assert (seen[0][:, :, readout, : readout + 1] > 0).any()


def test_nothing_is_implied_where_nothing_is_changed(vit: Model) -> None:
    found = ImpliedModelCheck().measure(Subject.of("gae"), on(vit, picture(vit), texts()))
    assert found.verdict == "holds"


def test_scenes_are_labelled_rightly() -> None:
    task = zero_shot.scene_task(64, "colour")
    model = heatproof.load("scenes")
    pixels, prompts = task.prepared(model)
    with torch.no_grad():
        named = zero_shot.accuracy(model, model.image.encode(pixels), prompts, task.right)
    assert named.value > 0.9  # the card's figure is above .98
    assert len(set(task.right.tolist())) > 4


# --- comparison -------------------------------------------------------------------------------


def test_measures_against_known_values() -> None:
    rising, falling = torch.arange(5.0), -torch.arange(5.0)
    for other, agreement in ((rising, 1), (falling, -1)):
        found = comparison.rank_agreement(rising[None], other[None])
        assert (found["spearman"], found["kendall"]) == pytest.approx((agreement, agreement))
    constant = comparison.rank_agreement(rising[None], torch.ones(1, 5))
    assert (constant["spearman"], constant["kendall"]) == (None, None)
    # With ties: tau-b, as scipy has it, where tau-a is 0.667.
    tied = torch.tensor([[1.0, 2, 2, 3]])
    assert comparison.rank_agreement(tied, torch.tensor([[1.0, 2, 2, 3]]))[
        "kendall"
    ] == pytest.approx(1)
    partly = comparison.rank_agreement(
        torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[1.0, 1, 2, 2]])
    )
    assert partly["kendall"] == pytest.approx(0.8165, abs=1e-4)
    assert comparison.relative_change(torch.ones(2), torch.zeros(2)) == 1


# --- all of it --------------------------------------------------------------------------------

# By check: a new check brings a test of its own, and runs here too.
VERDICTS: Mapping[str, Mapping[str, str]] = {
    "grad-eclip": {
        "parity": "violated",
        "forward-monitor": "violated",
        "reparametrisation": "violated",
        "readout": "holds",
        "implied-model": "violated",
    },
    "attention-x-gradient": {
        "parity": "holds",
        "forward-monitor": "holds",
        "reparametrisation": "holds",
        "readout": "holds",
        "implied-model": "holds",
    },
    "raw-attention": {
        "parity": "holds",
        "forward-monitor": "holds",
        "reparametrisation": "holds",
        "readout": "not applicable",
        "implied-model": "holds",
    },
}


@pytest.mark.parametrize("name", VERDICTS)
def test_principle_one(vit: Model, name: str) -> None:
    steps: list[str] = []
    before = weight_edits.fingerprint(vit.module)
    context = on(vit, picture(vit), texts())
    found = run_checks(Subject.of(name), context, 1, progress=steps.append)
    verdicts = {each.id: each.verdict for each in found}
    assert {check: verdicts[check] for check in VERDICTS[name]} == VERDICTS[name]
    cards = [check.card for check in checks(1)]
    assert list(verdicts) == [card.name for card in cards]
    assert steps == [f"{name}: {card.title} ({n}/{len(cards)})" for n, card in enumerate(cards, 1)]
    assert weight_edits.fingerprint(vit.module) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.module.modules())
    for each in found:
        assert each.evidence
        assert each.code or each.id not in VERDICTS[name]
        json.dumps(each.numbers, allow_nan=False)


def test_a_stranger_that_writes_into_weights_does_no_lasting_harm(vit: Model) -> None:
    before = weight_edits.fingerprint(vit.module)
    stranger = strangers.that_leaves_a_patch(vit.module, {"embedding 0": texts()[0]})
    subject = Subject(Foreign(stranger, takes="pixels"))
    run_checks(subject, on(vit, picture(vit), texts(1)), 1)
    assert weight_edits.fingerprint(vit.module) == before
