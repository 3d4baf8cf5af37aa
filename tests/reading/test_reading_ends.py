"""Nothing of a reading stays behind, whatever ended it."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.reading import interventions, reading
from reading_cases import (
    count_calls,
    tidy,
)
from towers import (
    SelfAttention,
    attn,
    tokens,
    tower,
)


class Fails(nn.Module):
    """Raises in the middle of the pass, after a first attention call."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.first, self.error = SelfAttention(), error

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        raise self.error("on purpose")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("start", [None, "blocks.1.attn.first"])
@pytest.mark.parametrize("grad", [True, False])
def test_nothing_stays_after_an_error_inside_the_forward_pass(error, start, grad: bool) -> None:
    model, whole = tower(), tower()
    model.blocks[1].attn = Fails(error).eval().double()
    with torch.set_grad_enabled(grad):
        with pytest.raises(error, match="on purpose"), reading(model, weights=True, start=start):
            model(tokens())
        tidy(model)
        assert torch.is_grad_enabled() is grad
        with reading(whole) as trace:
            whole(tokens())
        assert len(trace) == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_after_an_error_of_the_caller(error: type[BaseException]) -> None:
    model = tower()

    def fail(_: Tensor) -> None:
        raise error

    with pytest.raises(error), reading(model, start=attn(1)):
        fail(model(tokens()))
    tidy(model)


def test_nothing_stays_after_an_error_in_an_intervention_or_a_wrong_path() -> None:
    model = tower()
    with (
        pytest.raises(ReadingError),
        reading(model, interventions={attn(0): interventions.knock_out([9])}),
    ):
        model(tokens())
    tidy(model)
    with pytest.raises(ReadingError), reading(model, ["nowhere"]):
        pass
    tidy(model)


def test_nothing_stays_after_an_interrupt_in_nested_readings() -> None:
    model = tower()
    model.blocks[1].attn = Fails(KeyboardInterrupt).eval().double()
    with reading(model.blocks[0]) as part, reading(model, [attn(2)]):
        with (
            pytest.raises(KeyboardInterrupt),
            reading(model),
            reading(model.blocks, weights=True),
        ):
            model(tokens())
        model.blocks[1].attn = tower().blocks[1].attn
        model(tokens())
    assert next(iter(part)) == "attn"
    tidy(model)


def test_an_error_that_the_model_catches_leaves_the_reading_in_step() -> None:
    class Falls(SelfAttention):
        def __init__(self) -> None:
            super().__init__()
            self.broken = Fails(RuntimeError)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.broken(x)
            except RuntimeError:
                return super().forward(x)

    model, x = tower(Falls, depth=2), tokens()
    with reading(model) as trace:
        inside = model(x)
    torch.testing.assert_close(inside, model(x), rtol=0, atol=1e-13)
    assert list(trace) == [
        f"blocks.{n}.attn{part}" for n in (0, 1) for part in (".broken.first", "")
    ]
    tidy(model)


def test_a_failing_hook_of_somebody_else_leaves_the_reading_in_step() -> None:
    class Forgiving(SelfAttention):
        def forward(self, x: Tensor) -> Tensor:
            try:
                self.proj(x)
            except ZeroDivisionError:
                handle.remove()
            return super().forward(x)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    model = tower(Forgiving, depth=1)
    handle = model.blocks[0].attn.proj.register_forward_pre_hook(fail)
    with reading(model) as trace:
        model(tokens())
    assert list(trace) == [attn(0)]


def test_what_stood_in_place_of_the_function_stands_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = count_calls(monkeypatch, F, "scaled_dot_product_attention")
    foreign, model = F.scaled_dot_product_attention, tower()
    with reading(model):
        model(tokens())
    assert F.scaled_dot_product_attention is foreign
    assert len(calls) == 3


def test_a_model_that_was_read_is_freed() -> None:
    model = tower()
    with reading(model, weights=True) as trace:
        model(tokens())
    freed = []
    torch.utils.weak.weakref.finalize(model.blocks[0].attn, freed.append, True)
    del model, trace
    gc.collect()
    assert freed
