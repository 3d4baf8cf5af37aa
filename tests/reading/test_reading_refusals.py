"""Errors that say what to do."""

import pytest
import torch
from torch import nn

from heatproof.errors import ReadingError
from heatproof.reading import interventions, reading
from reading_cases import (
    KINDS,
    inner,
    operands,
)
from towers import (
    Call,
    attn,
    tokens,
    tower,
)


def test_compiled_models_are_refused() -> None:
    message = "is compiled by torch.compile, which hides its attention; pass the module that was"
    model = tower()
    wrapped = torch.compile(model, backend="eager")
    with pytest.raises(ReadingError, match=message), reading(wrapped):
        pass
    holder = nn.Sequential(wrapped).eval()
    with pytest.raises(ReadingError, match=f"module '0' {message}"), reading(holder):
        pass
    model.forward = torch.compile(model.forward, backend="eager")
    with pytest.raises(ReadingError, match=f"the model {message}"), reading(model):
        pass


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript_is_refused(how: str) -> None:
    part = nn.Linear(3, 3).eval()
    scripted = torch.jit.trace(part, torch.ones(1, 3)) if how == "trace" else torch.jit.script(part)
    with (
        pytest.raises(ReadingError, match=r"the model is TorchScript.*pass the Python model"),
        reading(scripted),
    ):
        pass
    holder = nn.Sequential(nn.Identity(), scripted).eval()
    with pytest.raises(ReadingError, match="module '1' is TorchScript"), reading(holder):
        pass


def test_training_mode_is_refused_wherever_it_is() -> None:
    model = tower()
    model.blocks[1].mlp.train()
    with (
        pytest.raises(
            ReadingError, match=r"module 'blocks\.1\.mlp' is in training.*model\.eval\(\)"
        ),
        reading(model),
    ):
        pass
    model.train()
    with pytest.raises(ReadingError, match=r"the model is in training mode"), reading(model):
        pass


def test_dropout_that_is_on_is_refused() -> None:
    call = Call().eval()
    with pytest.raises(ReadingError, match=r"attention dropout of 0\.25 is on"), reading(call):
        call(*operands(), dropout_p=0.25)


def test_a_wrong_path_is_named() -> None:
    model = tower()
    for settings in ({"paths": ["blocks.9.attn"]}, {"start": "blocks.9.attn"},
                     {"interventions": {"blocks.9.attn": interventions.identity()}}):  # fmt: skip
        with (
            pytest.raises(ReadingError, match=r"no module 'blocks\.9\.attn'"),
            reading(model, **settings),
        ):
            pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_no_attention_passes_is_named_with_those_that_it_does(kind) -> None:
    model = tower(kind)
    message = rf"no attention passed through 'blocks\.1\.mlp'.*{inner(kind, 0)!r}"
    for settings in ({"paths": ["blocks.1.mlp", inner(kind, 0)]},
                     {"start": "blocks.1.mlp"},
                     {"interventions": {"blocks.1.mlp": interventions.identity()}}):  # fmt: skip
        if "paths" not in settings:
            settings["paths"] = [inner(kind, 0)]
        with pytest.raises(ReadingError, match=message), reading(model, **settings):
            model(tokens())


def test_an_intervention_is_missed_even_where_no_attention_passes_at_all() -> None:
    model = nn.Sequential(nn.Linear(3, 3)).eval()
    with (
        pytest.raises(ReadingError, match=r"no attention passed through '0'.*no other path"),
        reading(model, interventions={"0": interventions.identity()}),
    ):
        model(torch.ones(1, 3))


def test_gradients_inside_inference_mode_are_refused() -> None:
    model = tower()
    with torch.inference_mode():
        with (
            pytest.raises(ReadingError, match=r"inside torch\.inference_mode"),
            reading(model, start=attn(1)),
        ):
            pass
        with reading(model, weights=True) as trace:
            model(tokens())
    assert len(trace) == 3


def test_operands_of_another_rank_are_refused() -> None:
    call = Call().eval()
    query, key, value = (each.unsqueeze(0) for each in operands())
    with (
        pytest.raises(ReadingError, match=r"shape \(1, 2, 3, 5, 11\), expected \(batch"),
        reading(call),
    ):
        call(query, key, value)
