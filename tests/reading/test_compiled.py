"""Models compiled in place: read as python where they are read, compiled everywhere else."""

import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import heatproof
from families import FAMILIES, picture, prompts_for
from heatproof.errors import InputError
from heatproof.models import Model
from heatproof.models.compiling import compile_blocks
from heatproof.reading import edit_activations, reading, record_activations
from heatproof.reading.compiled import CALL, as_python

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
VIT = "open_clip vit"
CXX = (os.environ.get("CXX", ""), "g++", "clang++")
BLOCKS = "visual.transformer.resblocks"


@pytest.fixture
def model() -> Iterator[Model]:
    torch.compiler.reset()
    yield FAMILIES[VIT]()
    torch.compiler.reset()


class Backend:
    """Counts how often compiled code runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        def run(*args: Any) -> Any:
            self.runs += 1
            return graph(*args)

        return run


def blocks_of(model: Model) -> list[nn.Module]:
    return list(model.module.get_submodule(BLOCKS).children())


def explained(model: Model, method: Any = "attention-x-gradient") -> Any:
    return heatproof.explain(model, picture(model, 2), prompts_for(VIT), method=method)


@pytest.fixture(scope="module")
def twins() -> Iterator[tuple[Model, Model]]:
    """The same weights, the other one's blocks compiled."""
    torch.compiler.reset()
    plain, compiled = FAMILIES[VIT](), FAMILIES[VIT]()
    compile_blocks(compiled, backend="aot_eager")
    yield plain, compiled
    torch.compiler.reset()


@pytest.mark.parametrize("name", heatproof.methods.catalogue())
def test_every_method_explains_what_is_compiled_as_it_would_the_python(
    twins: tuple[Model, Model], name: str
) -> None:
    own, found = (explained(model, name) for model in twins)
    torch.testing.assert_close(found.maps, own.maps, rtol=1e-9, atol=1e-12)
    verdicts = [[(c.name, c.verdict) for c in e.certificate.checks] for e in (own, found)]
    assert verdicts[0] == verdicts[1]


def test_only_what_is_read_runs_as_python(model: Model) -> None:
    backend = Backend()
    compile_blocks(model, backend=backend)
    depth, pixels = len(blocks_of(model)), picture(model, 2)
    backend.runs = 0
    with torch.inference_mode():
        model.image.encode(pixels)
    assert backend.runs == depth
    for paths, compiled in (([f"{BLOCKS}.{depth - 1}.attn"], depth - 1), (None, 0)):
        backend.runs = 0
        with torch.inference_mode(), reading(model.module, paths) as trace:
            model.image.encode(pixels)
        assert backend.runs == compiled
        assert len(trace) == depth - compiled


def test_hooks_inside_what_is_compiled_are_seen(model: Model) -> None:
    compile_blocks(model, backend="aot_eager")
    pixels, inner = picture(model, 1), f"{BLOCKS}.0.mlp"
    with torch.inference_mode():
        own = model.image.encode(pixels)
        with record_activations(model.module, [inner]) as states:
            model.image.encode(pixels)
        with edit_activations(model.module, {inner: torch.zeros_like}):
            changed = model.image.encode(pixels)
        again = model.image.encode(pixels)
    assert states[inner].output.shape[0] == 1
    assert not torch.allclose(changed, own)
    torch.testing.assert_close(again, own)


def test_compiled_calls_are_put_back_after_an_error_and_run_in_other_threads(model: Model) -> None:
    """While one thread reads, another one's pass stays compiled."""
    backend = Backend()
    compile_blocks(model, backend=backend)
    pixels = picture(model, 1)
    calls = [getattr(block, CALL) for block in blocks_of(model)]
    inside, leave = threading.Event(), threading.Event()

    def runs() -> int:
        backend.runs = 0
        with torch.inference_mode():
            model.image.encode(pixels)
        return backend.runs

    def other() -> None:
        with as_python(model.module):
            inside.set()
            leave.wait(10)

    def interrupted() -> None:
        with as_python(model.module):
            thread.start()
            inside.wait(10)
            assert runs() == 0
            raise KeyboardInterrupt

    thread = threading.Thread(target=other)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert runs() == len(calls)
    leave.set()
    thread.join()
    assert [getattr(block, CALL) for block in blocks_of(model)] == calls


def test_a_model_compiled_by_its_owner_is_read(model: Model) -> None:
    """As a whole, by `nn.Module.compile`: what is read runs as python, and it is put back."""
    plain = explained(model)
    backend = Backend()
    model.module.get_submodule("visual").compile(backend=backend)
    wrapped = heatproof.wrap(model.module, preprocess=model.image.preprocess)
    found = heatproof.explain(wrapped, picture(model, 2), prompts_for(VIT))
    torch.testing.assert_close(found.maps, plain.maps, rtol=1e-9, atol=1e-12)
    assert found.certificate.holds
    assert backend.runs > 0  # the untouched pass of the certificate


def test_what_gives_other_embeddings_is_not_kept(model: Model) -> None:
    def wrong(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        def run(*args: Any) -> Any:
            return tuple(each * 1.001 for each in graph(*args))

        return run

    with pytest.raises(InputError, match="other embeddings when compiled; load it without compile"):
        compile_blocks(model, backend=wrong)
    assert all(getattr(block, CALL) is None for block in blocks_of(model))


def test_what_torch_cannot_compile_is_left_as_it_was(model: Model) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no C++ compiler\nat all")

    with pytest.raises(InputError, match=r"torch cannot compile .* \(.*no C\+\+ compiler"):
        compile_blocks(model, backend=broken)
    assert all(getattr(block, CALL) is None for block in blocks_of(model))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, CXX)), reason="torch.compile needs a C++ compiler")
def test_a_model_is_compiled_where_it_is_loaded() -> None:
    """By torch's own compiler, to float32's precision."""
    torch.compiler.reset()
    plain = heatproof.load("scenes")
    model = heatproof.load("scenes", compile=True)
    pixels = picture(plain, 2)
    own, found = (heatproof.explain(each, pixels, ["a red circle"]) for each in (plain, model))
    torch.testing.assert_close(found.maps, own.maps, rtol=1e-4, atol=1e-6)
    assert found.certificate.holds
    torch.compiler.reset()
