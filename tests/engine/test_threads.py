"""Threads that share a model: each one's explanations are those of a serial run, and a pass that
is not explained is left alone. A web app does just this."""

import copy
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import heatproof
import tiny
import tiny_hf
from families import ids, picture, worded
from heatproof import methods
from heatproof.auditing import recording
from heatproof.engine.inputs import at_size
from heatproof.models import Model, Tokens
from heatproof.models.tokenizers import Codec
from heatproof.reading import edit_activations
from method_cases import NAMES, QUICK, sides, texts

THREADS = 4


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """Threads take turns after some ten operations of Python, not after thousands."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """What the jobs give, each in a thread of its own, begun together."""
    barrier = threading.Barrier(len(jobs), timeout=60)

    def started(job: Callable[[], Any]) -> Any:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(started, job) for job in jobs]]


def explained(model: Model, name: str, side: str, number: int) -> list[Tensor]:
    """Maps, scores and verdict of one thread's own inputs."""
    method = methods.create(name, **QUICK.get(name, {}))
    pixels, prompts = picture(model, 2) + number, texts()
    if side == "image":
        found = heatproof.explain(model, pixels, prompts, method=method)
        maps = [found.maps]
    else:
        found = heatproof.explain_words(model, pixels, ids(), method=method)
        maps = [each for row in found.maps for each in row]
    return [*maps, found.scores, torch.tensor(found.certificate.holds is True)]


def check_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


CASES = [(name, side) for name in NAMES for side in sides(name)]


@pytest.mark.parametrize(("name", "side"), CASES)
def test_a_method_in_four_threads_gives_what_it_gives_in_one(name: str, side: str) -> None:
    model = worded(tiny.open_clip_vit())
    jobs = [partial(explained, model, name, side, number) for number in range(THREADS)]
    expected = [job() for job in jobs]
    for _ in range(2):
        for found, own in zip(at_once(*jobs), expected, strict=True):
            check_same(found, own)


def test_all_methods_share_a_model_with_passes_that_are_not_explained() -> None:
    """Three threads explain, each by another method than the others; the fourth one runs the model
    bare, and at another input size, for which its modules are copied while they are read."""
    model = worded(tiny.open_clip_vit())
    expected = {case: explained(model, *case, number=0) for case in CASES}
    done = [threading.Event() for _ in range(THREADS - 1)]

    def explains(number: int) -> None:
        try:
            for case in CASES[number:] + CASES[:number]:
                check_same(explained(model, *case, number=0), expected[case])
        finally:
            done[number // 17].set()

    pixels, prompts = picture(model, 2), ids()
    larger = torch.nn.functional.interpolate(pixels, scale_factor=2)

    def bare() -> list[Tensor]:
        with torch.no_grad():
            plain = [model.image.encode(pixels), model.module.encode_text(prompts)]
        twin = at_size(model, (larger.shape[2], larger.shape[3]))
        assert torch.is_grad_enabled()
        assert model.image.encode(pixels).requires_grad
        return [*plain, twin.image.encode(larger).detach()]

    own = bare()

    def runs_bare() -> int:
        rounds = 0
        while not all(event.is_set() for event in done):
            check_same(bare(), own)
            rounds += 1
        return rounds

    *_, rounds = at_once(*(partial(explains, number) for number in (0, 17, 34)), runs_bare)
    assert rounds > 10
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


def test_photos_in_four_threads_are_explained_as_in_one() -> None:
    """From the photo on: preprocessed, compared with the model's own processor, certified."""
    model = heatproof.load("scenes")
    photos = [Image.effect_mandelbrot((90 + 20 * n, 70), (-2, -1, 1, 1), 9) for n in range(THREADS)]
    prompts = ["a red circle", "a blue square"]

    def explains(number: int, size: str) -> list[Tensor]:
        photo = photos[number].convert("RGB")
        found = heatproof.explain(model, photo, prompts, image_size=size)
        verdicts = [check.verdict for check in found.certificate.checks]
        return [found.maps, found.scores, torch.tensor([each == "holds" for each in verdicts])]

    jobs = [
        partial(explains, number, "keep" if number % 2 else "native") for number in range(THREADS)
    ]
    expected = [job() for job in jobs]
    for _ in range(3):
        for found, own in zip(at_once(*jobs), expected, strict=True):
            check_same(found, own)


def test_a_copy_of_a_model_that_is_being_read_is_not_read() -> None:
    """Hooks go with a module's copy: there they do nothing, in the thread that reads, too."""
    model = tiny.open_clip_vit()
    seen: list[Tensor] = []

    def edit(output: Tensor) -> Tensor:
        seen.append(output)
        return torch.zeros_like(output)

    with torch.no_grad():
        own = model.image.encode(picture(model))
        with edit_activations(model.module, {"visual.transformer.resblocks.0": edit}):
            twin = copy.deepcopy(model.module)
            assert torch.equal(twin.encode_image(picture(model)), own)
            assert not seen
        assert torch.equal(twin.encode_image(picture(model)), own)


@pytest.mark.parametrize("name", NAMES)
def test_no_explanation_changes_the_process_s_warnings(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Filters belong to all threads: whoever sets and restores them undoes the others' changes."""
    model = worded(tiny.open_clip_vit())

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a filter of warnings is changed")

    with monkeypatch.context() as patch:
        for function in ("catch_warnings", "simplefilter", "filterwarnings", "resetwarnings"):
            patch.setattr(warnings, function, fail)
        for side in sides(name):
            explained(model, name, side, 0)


def test_a_tokenizer_in_four_threads_cuts_and_pads_as_in_one() -> None:
    """A fast tokenizer keeps truncation and padding as its own state, which each call sets."""
    codec = Codec(tiny_hf.tokenizer(), 7, tiny_hf.VOCABULARY, lambda ids: ids.argmax(-1))
    prompts = ["white dog", "a red cat in the white snow and a dog", "snowball", "x y z " * 30]
    expected = [codec.tokenize([prompt]) for prompt in prompts]

    def many(number: int) -> list[Tokens]:
        return [codec.tokenize([prompts[number]]) for _ in range(200)]

    for own, found in zip(expected, at_once(*(partial(many, n) for n in range(4))), strict=True):
        for tokens in found:
            assert torch.equal(tokens.ids, own.ids)
            assert tokens.pieces == own.pieces


def test_an_audit_notes_what_its_own_thread_differentiates_and_puts_torch_back() -> None:
    """Two of them that overlap, the first to begin being the first to end; a third thread beside
    them is not noted at all."""
    native = torch.autograd.grad, torch.autograd.backward
    stages = threading.Barrier(3, timeout=60)

    def differentiate(value: float) -> None:
        leaf = torch.tensor(value, requires_grad=True)
        torch.autograd.grad(leaf * 1, [leaf])
        (leaf * 1).backward()

    def first() -> list[float]:
        with recording.differentiated(noted := []):
            stages.wait()
            stages.wait()  # the second one notes too
            differentiate(1.0)
        stages.wait()
        return noted

    def second() -> list[float]:
        stages.wait()
        with recording.differentiated(noted := []):
            stages.wait()
            stages.wait()  # the first one has ended
            differentiate(2.0)
        return noted

    def third() -> list[float]:
        stages.wait()
        stages.wait()
        differentiate(3.0)
        stages.wait()
        return []

    assert at_once(first, second, third) == [[1.0, 1.0], [2.0, 2.0], []]
    assert (torch.autograd.grad, torch.autograd.backward) == native
