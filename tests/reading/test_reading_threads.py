"""Nested readings, and readings in several threads."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from heatproof.reading import AttentionCall, interventions, reading
from reading_cases import (
    FUSED,
    KINDS,
    count_calls,
    inner,
    tidy,
)
from towers import (
    MultiHead,
    Tower,
    attn,
    tokens,
    tower,
)


@pytest.mark.parametrize("kind", KINDS)
def test_an_outer_intervention_is_part_of_the_model_that_is_read(kind: type[nn.Module]) -> None:
    model, x = tower(kind), tokens()
    change = {inner(kind, 1): interventions.knock_out([1])}
    with reading(model, interventions=change) as outer:
        changed = model(x)
    with reading(model, [], interventions=change), reading(model, weights=True) as trace:
        nested = model(x)
    torch.testing.assert_close(nested, changed, rtol=0, atol=1e-13)
    assert (nested - model(x)).abs().max() > 1e-3
    assert trace[inner(kind, 1)].output[:, 1].count_nonzero() == 0
    torch.testing.assert_close(trace[inner(kind, 2)].output, outer[inner(kind, 2)].output)
    assert list(trace) == list(outer)


def test_an_outer_intervention_comes_before_an_inner_one() -> None:
    model, x, order = tower(), tokens(), []

    def named(name: str) -> Callable[[AttentionCall], AttentionCall]:
        return lambda call: order.append(name) or call

    with (
        reading(model, [], interventions={attn(0): named("outer")}),
        reading(model, interventions={attn(0): named("inner")}),
    ):
        model(x)
    assert order == ["outer", "inner"]


@pytest.mark.parametrize("kind", KINDS)
def test_nested_readings_of_parts_and_whole_close_in_any_order(kind: type[nn.Module]) -> None:
    model, x = tower(kind), tokens()
    expected = model(x)
    for outer, inside in [(None, (1, 2)), ((1, 2), None), ((0,), ()), ((), (0,)), ((0,), (1, 2))]:
        paths = [
            each if each is None else [inner(kind, layer) for layer in each]
            for each in (outer, inside)
        ]
        with reading(model, paths[0]) as first, reading(model.blocks, weights=True) as part:
            with reading(model, paths[1], weights=True) as second:
                torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-13)
            assert len(_get_current_function_mode_stack()) == 0
        every = [inner(kind, layer) for layer in range(3)]
        assert list(first) == (every if paths[0] is None else paths[0])
        assert list(second) == (every if paths[1] is None else paths[1])
        assert [f"blocks.{path}" for path in part] == every
    tidy(model)


def in_step(*jobs: Callable[[threading.Barrier], object]) -> list[object]:
    barrier = threading.Barrier(len(jobs), timeout=20)
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job, barrier) for job in jobs]]


def reader(model: Tower, kind: type[nn.Module], x: Tensor, layer: int, rounds: int):
    """A job that reads one layer again and again, with gradients, beside another thread."""
    path = inner(kind, layer)
    with reading(model, [path], weights=True, start=path) as alone:
        embedding = model(x)
        (expected,) = torch.autograd.grad(embedding.square().sum(), alone[path].weights)

    def job(barrier: threading.Barrier) -> None:
        for _ in range(rounds):
            with reading(model, [path], weights=True, start=path) as trace:
                barrier.wait()
                again = model(x)
                (gradient,) = torch.autograd.grad(again.square().sum(), trace[path].weights)
                barrier.wait()
            assert list(trace) == [path]
            assert again.equal(embedding)
            assert trace[path].weights.equal(alone[path].weights)
            assert gradient.equal(expected)
            assert torch.is_grad_enabled()
            assert _get_current_function_mode_stack() == []

    return job


@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_reading_two_models_do_not_see_each_other(kind: type[nn.Module]) -> None:
    first, second = tower(kind), tower(kind, seed=7)
    in_step(
        reader(first, kind, tokens(), 1, rounds=10),
        reader(second, kind, tokens(seed=8), 2, rounds=10),
    )
    tidy(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_reading_the_same_model_do_not_see_each_other(kind: type[nn.Module]) -> None:
    model = tower(kind)
    in_step(
        reader(model, kind, tokens(), 1, rounds=10),
        reader(model, kind, tokens(seed=8), 1, rounds=10),
    )
    tidy(model)


def test_a_thread_that_does_not_read_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tower(MultiHead), tokens()
    change = {inner(MultiHead, layer): interventions.knock_out([0, 1]) for layer in range(3)}
    with torch.no_grad():
        expected = model(x)
    fast = count_calls(monkeypatch, torch, "_native_multi_head_attention")

    def reads(barrier: threading.Barrier) -> int:
        with torch.no_grad(), reading(model, interventions=change) as trace:
            barrier.wait()
            model(x)
            barrier.wait()
        return len(trace)

    def does_not(barrier: threading.Barrier) -> Tensor:
        with torch.no_grad():
            barrier.wait()
            result = model(x)
            barrier.wait()
        return result

    read, result = in_step(reads, does_not)
    assert read == 3
    assert result.equal(expected)
    assert len(fast) == 3


def test_a_hook_that_goes_while_another_thread_is_about_to_call_it_does_no_harm() -> None:
    """Torch forgets at once that a removed hook takes keyword arguments, and still calls it."""
    model, x = tower(depth=1), tokens()
    arrived, gone = threading.Event(), threading.Event()
    main = threading.get_ident()

    def stop(*_: object) -> None:
        if threading.get_ident() != main:
            arrived.set()
            assert gone.wait(20)

    for register in (model.register_forward_pre_hook, model.register_forward_hook):
        arrived.clear()
        gone.clear()
        handle = register(stop)  # runs before the reading's own hook
        with ThreadPoolExecutor(1) as pool:
            with reading(model):
                future = pool.submit(model, x)
                assert arrived.wait(20)
            gone.set()
            assert future.result().equal(model(x))
        handle.remove()


def test_a_reading_goes_on_when_another_thread_closes_its_own() -> None:
    model, x, closed = tower(), tokens(), threading.Event()

    def opens_and_closes(barrier: threading.Barrier) -> None:
        with reading(model):
            barrier.wait()
        closed.set()

    def goes_on(barrier: threading.Barrier) -> int:
        with reading(model) as trace:
            barrier.wait()
            assert closed.wait(20)
            model(x)
            assert F.scaled_dot_product_attention is not FUSED
        return len(trace)

    assert in_step(opens_and_closes, goes_on)[1] == 3


def test_readings_that_come_and_go_never_disturb_another_thread() -> None:
    model, x, done = tower(), tokens(), threading.Event()
    expected, interval = model(x), sys.getswitchinterval()

    def come_and_go() -> None:
        while not done.is_set():
            with reading(model, [attn(1)]):
                pass_through = model(x)
            torch.testing.assert_close(pass_through, expected, rtol=0, atol=1e-13)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(come_and_go)
            for _ in range(40):
                assert model(x).equal(expected)
            done.set()
            future.result()
    finally:
        done.set()
        sys.setswitchinterval(interval)
    tidy(model)
