"""What a sample may miss is stated, what it finds is found whole, and nothing kept goes stale.

Seen to fail: with `take(sample)` in place of `everything` in
`Pipeline._compare`, with null prompts kept by the weights alone, and by the state alone.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import heatproof
from families import ids_of, picture, worded
from heatproof.certificate import Certificate
from heatproof.engine.results import sample_of
from heatproof.explanation import Explanation
from heatproof.models.library import Library
from heatproof.models.model import Model
from heatproof.models.state import ModuleState, checksum
from heatproof.reading import readings_open
from heatproof.specimens import model_of
from input_photos import photo

VIT = "open_clip vit"
WIDTH = 17
IMAGES = 8
FAULTY = 5
BLOCK = "visual.transformer.resblocks.0"


@pytest.fixture
def model() -> Model:
    return worded(model_of(VIT))


def explain(model: Model, certify: Any = True, seed: int = 0, **options: Any) -> Explanation:
    prompts = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    options = {"certify": certify, "seed": seed, "batch_size": 3, **options}
    return heatproof.explain(model, picture(model, IMAGES), prompts, **options)


def disturb(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    """Change one image, and only while the pass is read."""
    del module, args
    first = 3 * (FAULTY // 3)  # batches of 3
    disturb.calls = getattr(disturb, "calls", 0)  # type: ignore[attr-defined]
    if not readings_open():
        return None
    place = disturb.calls  # type: ignore[attr-defined]
    disturb.calls = (place + len(output)) % IMAGES  # type: ignore[attr-defined]
    if place != first:
        return None
    changed = output.clone()
    changed[FAULTY - first, :, ::2] += 0.5
    return changed


@pytest.fixture
def faulty(model: Model) -> Iterator[Model]:
    disturb.calls = 0  # type: ignore[attr-defined]
    explain(model, certify=False)  # layers are looked for once, by a pass of its own
    disturb.calls = 0  # type: ignore[attr-defined]
    handle = model.module.get_submodule(BLOCK).register_forward_hook(disturb)
    yield model
    handle.remove()


def verdicts(made: Explanation) -> list[str]:
    found = [made.certificate_of(image).check("parity") for image in range(IMAGES)]
    return [check.verdict for check in found if check is not None]


ONE_IMAGE = ["violated" if image == FAULTY else "holds" for image in range(IMAGES)]


def test_a_fault_in_one_image_is_found_where_all_are_compared(faulty: Model) -> None:
    made = explain(faulty, certify="full")
    assert verdicts(made) == ONE_IMAGE
    assert made.certificate.holds is False
    assert f"'image {FAULTY}'" in made.certificate.sentence


def test_a_sample_finds_the_fault_or_states_its_risk(faulty: Model) -> None:
    seeds = {FAULTY in sample_of(IMAGES, 0, seed).tolist(): seed for seed in range(40)}
    assert set(seeds) == {True, False}
    drawn = explain(faulty, seed=seeds[True])
    # What was drawn differs, so that all were compared.
    assert verdicts(drawn) == ONE_IMAGE
    assert all(check.sample is None for check in drawn.certificate.checks)
    missed = explain(faulty, seed=seeds[False])
    assert missed.certificate.holds is True
    for row in (missed.certificate, missed.certificate_of(FAULTY)):
        assert "measured on 1 of 8 images, drawn at random" in row.sentence
        assert "a fault in half of the images would be missed with probability 0.5" in row.sentence
        assert "measured on 1 of 8 images" in row.lights[0].evidence
        assert row.figures["parity measured"] is False


def test_the_image_that_was_drawn_has_nothing_to_add(model: Model) -> None:
    made = explain(model)
    (drawn,) = sample_of(IMAGES, 0, 0).tolist()
    rows = [made.certificate_of(image) for image in range(IMAGES)]
    assert [row.figures["parity measured"] for row in rows] == [n == drawn for n in range(IMAGES)]
    assert "random" not in rows[drawn].sentence
    assert rows[drawn].figures["parity gap"] is not None
    assert rows[drawn - 1].figures["parity gap"] is None
    stored = [check.sample for check in made.certificate.checks if check.name == "parity"]
    assert [(one.compared, one.images) for one in stored if one is not None] == [(1, IMAGES)]


@pytest.mark.parametrize(("images", "compared"), [(1, 1), (4, 4), (5, 1), (8, 1), (9, 2), (64, 8)])
def test_one_image_in_eight_is_drawn_and_all_of_a_few(images: int, compared: int) -> None:
    drawn = [tuple(sample_of(images, 0, seed).tolist()) for seed in range(300)]
    assert {len(set(one)) for one in drawn} == {compared}
    assert {image for one in drawn for image in one} == set(range(images))  # all may be
    assert drawn[0] == tuple(sample_of(images, 0, 0).tolist())


def encoded(model: Model, run: Callable[[], object]) -> tuple[int, int]:
    """How many images went through the image tower, and texts through the text tower."""
    counts = {"visual": 0, "token_embedding": 0}
    handles = [
        model.module.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: counts.update({name: counts[name] + len(args[0])})
        )
        for name in counts
    ]
    run()
    for handle in handles:
        handle.remove()
    return counts["visual"], counts["token_embedding"]


def test_a_certificate_runs_an_eighth_of_the_images_again(model: Model) -> None:
    explain(model)
    assert encoded(model, lambda: explain(model, certify=False)) == (IMAGES, 0)
    assert encoded(model, lambda: explain(model))[0] == IMAGES + 1
    assert encoded(model, lambda: explain(model, certify="full"))[0] == 2 * IMAGES


def test_words_and_changed_passes_are_compared_as_a_whole(model: Model) -> None:
    prompts = ids_of(["ab", "c"])
    words = heatproof.explain_words(model, picture(model, IMAGES), prompts).certificate
    changed = explain(model, method="grad-eclip").certificate
    for found in (words, changed):
        assert all(check.sample is None for check in found.checks)


def test_a_jacobian_states_its_sample_too(model: Model, tmp_path) -> None:
    made = heatproof.jacobian(model, picture(model, IMAGES))
    again = heatproof.load_jacobian(made.save(tmp_path / "j.safetensors"))
    for found in (made, again):
        assert "measured on 1 of 8 images" in found.certificate.sentence


# --- the library's own call ----------------------------------------------------------------------


def test_the_librarys_call_is_made_on_the_sample_and_on_all_where_it_differs() -> None:
    model = heatproof.load("scenes")
    photos, prompts = [photo(70, 64, seed=n) for n in range(IMAGES)], ["a red circle", "a star"]
    fine = heatproof.explain(model, photos, prompts).certificate
    (check,) = [check for check in fine.checks if check.name == "input"]
    assert check.verdict == "holds"
    assert "measured on 1 of 8 images" in check.evidence
    assert fine.sentence.count("measured on") == 1  # one sentence for both checks
    assert isinstance(model.library, Library)
    match = model.library.match
    (drawn,) = sample_of(IMAGES, 0, 0).tolist()

    def wrong(inputs: Any, texts: Any) -> Tensor:
        scores = match(inputs, texts).clone()
        scores[0 if len(scores) == 1 else drawn] += 0.1
        return scores

    odd = replace(model, library=replace(model.library, match=wrong))
    made = heatproof.explain(odd, photos, prompts)
    found = [made.certificate_of(image).check("input") for image in range(IMAGES)]
    wrong_ones = [n for n, one in enumerate(found) if one is not None and one.verdict != "holds"]
    assert wrong_ones == [drawn]


# --- nothing kept goes stale ---------------------------------------------------------------------


def by_data(parameter: Tensor) -> None:
    parameter.data[0] *= 1.5


def by_numpy(parameter: Tensor) -> None:
    parameter.detach().numpy()[0] *= 1.5


def by_grad_mode(parameter: Tensor) -> None:
    with torch.no_grad():
        parameter[0] *= 1.5


def told(certificate: Certificate) -> tuple[object, ...]:
    return certificate.environment["weights_sha256"], *certificate.null_prompts.values()


@pytest.mark.parametrize("write", [by_data, by_numpy, by_grad_mode])
def test_weights_that_change_in_place_change_hash_and_null_prompts(
    model: Model, write: Callable[[Tensor], None]
) -> None:
    before = told(explain(model).certificate)
    write(model.module.get_parameter("text_projection"))
    after = told(explain(model).certificate)
    fresh = worded(heatproof.wrap(deepcopy(model.module)))
    assert after == told(explain(fresh).certificate)
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_hook_between_calls_changes_the_null_prompts(model: Model) -> None:
    before = told(explain(model).certificate)
    handle = model.module.get_submodule("ln_final").register_forward_hook(
        lambda _module, _args, output: output.flip(-1)
    )
    after = told(explain(model).certificate)
    handle.remove()
    assert told(explain(model).certificate) == before
    assert after[0] == before[0]  # the same weights
    assert all(one != other for one, other in zip(before[1:], after[1:], strict=True))


def test_null_prompts_are_embedded_once(model: Model) -> None:
    assert encoded(model, lambda: explain(model))[1] == 3
    assert encoded(model, lambda: explain(model))[1] == 3  # a hook is on: it might change them
    explain(model)
    texts = torch.zeros(0)
    tower = model.text
    assert tower is not None
    calls: list[int] = []
    object.__setattr__(tower, "encode", lambda *_: calls.append(1) or texts)
    explain(model)
    assert calls == []


@pytest.mark.parametrize("size", [(5,), (3, 700), (130, 129), (1030, 512)])
def test_a_checksum_changes_with_any_word_and_with_any_two_that_change_places(size) -> None:
    module = nn.Module()
    module.register_buffer("values", torch.randn(size, generator=torch.Generator().manual_seed(0)))
    before, flat = checksum(module), module.values.view(-1)
    places = torch.randint(len(flat), (20, 2), generator=torch.Generator().manual_seed(1)).tolist()
    for one, other in [*places, [0, 1], [0, len(flat) - 1]]:
        if one == other:
            continue
        kept = flat.clone()
        flat[one] = torch.nextafter(flat[one], torch.tensor(9.0))
        assert checksum(module) != before
        flat.copy_(kept)
        flat[[one, other]] = flat[[other, one]]
        assert checksum(module) != before
        flat.copy_(kept)
        assert checksum(module) == before


def replace_part(module: Any) -> None:
    module[1] = nn.ReLU()


def patch_forward(module: Any) -> None:
    module[0].forward = lambda x: x


def set_mode(module: Any) -> None:
    module[0].train()


def set_setting(module: Any) -> None:
    module[2].eps = 1e-3


def hook(module: Any) -> None:
    module[0].register_forward_pre_hook(lambda *_: None)


@pytest.mark.parametrize("change", [replace_part, patch_forward, set_mode, set_setting, hook])
def test_whatever_is_set_on_a_module_is_seen(change: Callable[[Any], None]) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.LayerNorm(3)).eval()
    before = ModuleState(module)
    assert before.same(ModuleState(module))
    change(module)
    assert not before.same(ModuleState(module))
