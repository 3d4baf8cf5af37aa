"""A memory budget changes how things are explained, not what, and it is kept."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import heatproof
from families import FAMILIES, ids_for, model_of, picture, prompts_for
from heatproof.checking import size_in_bytes
from heatproof.engine import inputs
from heatproof.engine.memory import MemoryTracker
from heatproof.errors import InputError, ReadingError
from heatproof.methods import pass_context
from heatproof.models import Model

VIT = "open_clip vit"


def close(one: Tensor, other: Tensor, limit: float = 1e-5) -> None:
    assert float((one - other).abs().max() / other.abs().max()) <= limit


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2 * 2**30), ("500MB", 5 * 10**8), ("1.5 kib", 1536), (77, 77), ("12b", 12)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GiB", "0", "2 TiB", "GiB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="expected a size such as"):
        size_in_bytes(text)


@pytest.mark.parametrize(
    "method", ["gae", "attcat", "legrad", "attnlrp", "libragrad", "token-decomposition",
               "attention-x-gradient"]
)  # fmt: skip
def test_a_budget_changes_no_map(method: str) -> None:
    model = model_of(VIT)
    pixels = picture(model, 5)
    full = heatproof.explain(model, pixels, prompts_for(VIT), method=method)
    for memory in ("1MiB", "3MiB", "1GiB"):
        found = heatproof.explain(model, pixels, prompts_for(VIT), method=method, memory=memory)
        close(found.maps, full.maps)
        assert found.certificate.holds == full.certificate.holds


def peak_of(model: Model, given: Sequence[Any], run: Callable[[], object]) -> int:
    """Bytes of all tensors of a run at once, the model's and those that were handed in apart."""
    own = [*model.module.parameters(), *model.module.buffers()]
    with MemoryTracker([*own, *(each for each in given if isinstance(each, Tensor))]) as noted:
        run()
    return noted.peak


@pytest.mark.parametrize("method", ["gae", "attention-x-gradient"])
def test_a_budget_is_kept(method: str) -> None:
    """Of what the tensors of a run take at once, inputs and maps apart."""
    model = heatproof.load("scenes")
    pixels = torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    prompts = torch.randn(6, 128, generator=torch.Generator().manual_seed(2))
    prompts = prompts[:, : model.image.encode(pixels[:1]).shape[1]]

    def peak(memory: str | None) -> int:
        def run() -> object:
            return heatproof.explain(
                model, pixels, prompts, method=method, certify=False, memory=memory
            )

        return peak_of(model, (pixels, prompts), run)

    assert peak("24MiB") <= size_in_bytes("24MiB")
    if method == "gae":
        assert peak(None) > size_in_bytes("24MiB")


# What one input takes with one target at a time, times this, is the budget: too little for all
# inputs together, and for all targets.
TIGHT = 2.5


def within(explain: Callable[..., Any], model: Model, one: Any, given: Any, method: str) -> None:
    """`explain(model, *given)` keeps a tight budget, which changes none of its maps."""

    def run(images: Any, prompts: Any, **memory: Any) -> Any:
        return explain(model, images, prompts, method=method, certify=False, **memory)

    def maps(found: Any) -> Tensor:
        made = found.maps
        return made if isinstance(made, Tensor) else torch.cat([t for row in made for t in row])

    run(*one)  # what is found out once takes no memory later
    limit = int(TIGHT * peak_of(model, one, lambda: run(*one)))
    found: list[Any] = []
    free = peak_of(model, given, lambda: found.append(run(*given)))
    kept = peak_of(model, given, lambda: found.append(run(*given, memory=limit)))
    close(maps(found[0]), maps(found[1]))
    assert kept <= limit < free


@pytest.mark.parametrize("method", ["gae", "attention-x-gradient", "legrad"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_budget_is_kept_by_every_family(family: str, method: str) -> None:
    model = model_of(family)
    pixels, prompts = picture(model, 6), prompts_for(family, 6)
    try:
        within(heatproof.explain, model, (pixels[:1], prompts[:1]), (pixels, prompts), method)
    except ReadingError:
        assert method == "legrad"


def test_a_second_pass_keeps_the_budget_however_many_prompts() -> None:
    model = model_of(VIT)
    pixels, prompts = picture(model, 2), prompts_for(VIT, 80)
    one, given = (pixels[:1], prompts[:1]), (pixels, prompts)
    within(heatproof.explain, model, one, given, "transformer-attribution")


@pytest.mark.parametrize("method", ["gae", "attention-x-gradient"])
@pytest.mark.parametrize("family", [VIT, "open_clip siglip", "open_clip coca", "hf clip"])
def test_a_budget_is_kept_of_words(family: str, method: str) -> None:
    model = model_of(family)
    pixels, prompts = picture(model, 6), ids_for(family, 4)
    within(heatproof.explain_words, model, (pixels[:1], prompts[:1]), (pixels, prompts), method)


def test_prompts_are_embedded_within_the_budget() -> None:
    model, ids = model_of(VIT), ids_for(VIT, 5)
    limit = int(TIGHT * peak_of(model, [ids], lambda: inputs.prompts(model, ids[:1])))
    assert peak_of(model, [ids], lambda: inputs.prompts(model, ids)) > limit
    assert peak_of(model, [ids], lambda: inputs.prompts(model, ids, limit)) <= limit
    close(inputs.prompts(model, ids, limit).embeddings, inputs.prompts(model, ids).embeddings)


@pytest.mark.parametrize("method", ["legrad", "gae", "transformer-attribution"])
def test_prompts_go_together_in_groups_that_fit(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By memory, and by a processor's cache where the memory would hold more."""
    model, groups = model_of(VIT), list[int]()
    at_once = pass_context.gradients_at_once

    def noted(outputs: Tensor, wanted: Sequence[Tensor], some: Tensor) -> tuple[Tensor, ...]:
        groups.append(len(some))
        return at_once(outputs, wanted, some)

    def explained() -> tuple[Tensor, set[int]]:
        groups.clear()
        found = heatproof.explain(
            model, picture(model), prompts_for(VIT), method=method, certify=False
        )
        return found.maps, set(groups)

    monkeypatch.setattr(pass_context, "gradients_at_once", noted)
    together, by_default = explained()
    assert by_default == {3}
    monkeypatch.setattr(pass_context, "IN_CACHE", 1)
    apart, one_by_one = explained()
    assert one_by_one == {1}
    close(apart, together)


def test_too_little_memory_is_said() -> None:
    model = model_of(VIT)
    with pytest.raises(InputError, match="one input takes"):
        heatproof.explain(model, picture(model), prompts_for(VIT), method="gae", memory="1kB")
    with pytest.raises(InputError, match="got batch_size=0"):
        heatproof.explain(model, picture(model), prompts_for(VIT), memory="1GB", batch_size=0)
