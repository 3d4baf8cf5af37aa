"""Whatever is handed to a public function works, or is refused in one line.

Every parameter of every public function gets every odd value, the others staying good. What passes
the checks may work; what fails must be a `HeatproofError` of one short line.
"""

import gc
import inspect
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image

import heatproof
import tiny
from heatproof import errors
from heatproof.auditing import run
from heatproof.benchmarking import spreading
from heatproof.methods import Foreign
from heatproof.proofs import prove_methods
from heatproof.proofs.models import ModelRun
from heatproof.recipes.grad_eclip_paper import reproducing

LONG = "x" * 10_000
LIMIT = errors.LONGEST

MODEL = tiny.open_clip_vit(torch.float32)
HEIGHT, WIDTH = MODEL.image.preprocess.height, MODEL.image.preprocess.width
PHOTO = Image.new("RGB", (WIDTH, HEIGHT), "red")
EXPLAINED = heatproof.explain(MODEL, PHOTO, ["a dog", "a cat"])
JACOBIAN = heatproof.jacobian(MODEL, PHOTO)


def _odd() -> dict[str, Callable[[], Any]]:
    """By what it is, what makes it: some can be used up."""
    pixels = torch.zeros(1, 3, HEIGHT, WIDTH)
    return {
        "None": lambda: None,
        "True": lambda: True,
        "0": lambda: 0,
        "-1": lambda: -1,
        "7": lambda: 7,
        "a very large number": lambda: 10**5000,
        "1.5": lambda: 1.5,
        "NaN": lambda: float("nan"),
        "infinity": lambda: float("inf"),
        "1j": lambda: 1j,
        "decimal": lambda: Decimal("1.5"),
        "numpy number": lambda: np.float64(0.5),
        "numpy bool": lambda: np.bool_(True),
        "empty text": lambda: "",
        "blank": lambda: " \n ",
        "long text": lambda: LONG,
        "long text with a colon": lambda: f"open_clip:{LONG}",
        "NUL": lambda: "a\0b",
        "not UTF-8": lambda: "a\udcffb",
        "lines": lambda: "a\nb",
        "emoji": lambda: "\U0001f600",
        "address": lambda: "https://example.org/a.jpg",
        "data address": lambda: f"data:image/png;base64,{LONG}",
        "file name": lambda: "a.jpg",
        "bytes": lambda: LONG.encode(),
        "bytearray": lambda: bytearray(b"ab"),
        "empty list": lambda: [],
        "list of None": lambda: [None, None],
        "list of numbers": lambda: [1, 2, 3],
        "list of lists": lambda: [["a"], ["b"]],
        "long list": lambda: [LONG, LONG],
        "list of texts": lambda: ["one", "two"],
        "tuple": lambda: ("a", 1),
        "dict": lambda: {"a": "b"},
        "empty dict": lambda: {},
        "set": lambda: {"a", "b"},
        "range": lambda: range(3),
        "generator": lambda: (each for each in ("one", "two")),
        "object": object,
        "class": lambda: int,
        "method class": lambda: heatproof.methods.GradECLIP,
        "module": lambda: sys,
        "no argument": lambda: lambda: None,
        "any argument": lambda: lambda *_, **__: None,
        "path": lambda: Path("none"),
        "folder": lambda: Path(),
        "file": lambda: io.BytesIO(b"x"),
        "date": lambda: date(2026, 1, 1),
        "PIL image": lambda: PHOTO,
        "empty image": lambda: Image.new("RGB", (0, 0)),
        "array number": lambda: np.array(3),
        "array": lambda: np.zeros((2, 3)),
        "array of ones": lambda: np.ones((1, 1)),
        "image array": lambda: np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        "float image array": lambda: np.zeros((HEIGHT, WIDTH, 3)),
        "array of objects": lambda: np.array([None, "a"], dtype=object),
        "array of texts": lambda: np.array(["a", "b"]),
        "sparse array": lambda: scipy.sparse.csr_array(np.eye(3)),
        "number tensor": lambda: torch.tensor(3),
        "empty tensor": lambda: torch.zeros(0),
        "no image tensor": lambda: torch.zeros(0, 3, HEIGHT, WIDTH),
        "no pixel tensor": lambda: torch.zeros(1, 3, 0, WIDTH),
        "NaN pixels": lambda: pixels / 0,
        "infinite pixels": lambda: pixels + float("inf"),
        "bytes tensor": lambda: pixels.byte(),
        "complex tensor": lambda: pixels.cfloat(),
        "sparse tensor": lambda: pixels.to_sparse(),
        "meta tensor": lambda: pixels.to("meta"),
        "quantized tensor": lambda: _quantized(pixels),
        "matrix": lambda: torch.randn(2, 3),
        "ids": lambda: torch.tensor([[1, -5], [10**9, 3]]),
        "bool matrix": lambda: torch.ones(2, 3, dtype=torch.bool),
        "list of tensors": lambda: [pixels, pixels],
        "model": lambda: MODEL,
        "module of torch": lambda: torch.nn.Linear(2, 2),
        "model and transforms": lambda: (torch.nn.Linear(2, 2), print, print),
        "explanation": lambda: EXPLAINED,
        "dtype": lambda: torch.int8,
        "device": lambda: torch.device("cpu"),
    }


def _quantized(pixels: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch gives it up; users have such tensors still
        return torch.quantize_per_tensor(pixels, 0.1, 0, torch.quint8)


ODD = _odd()


class _Started(Exception):
    """The door is passed: the work itself is none of this test."""


def _start(*_: Any, **__: Any) -> Any:
    raise _Started


@dataclass(frozen=True)
class Door:
    """A public function, arguments that it takes, and what takes the place of its work."""

    call: Callable[..., Any]
    good: Callable[[Path], dict[str, Any]]
    works: tuple[tuple[object, str], ...] = ()


def _saved(folder: Path) -> Path:
    return JACOBIAN.save(folder / "jacobian.safetensors")


def _store(folder: Path) -> Path:
    (folder / "manifest.json").write_text('{"schema": 1, "run": {}}')
    return folder


def _asked(folder: Path) -> dict[str, Any]:
    del folder
    return {"model": MODEL, "images": PHOTO, "prompts": ["a dog", "a cat"]}


class _Attribution:
    def __init__(self, module: Any) -> None:
        self.module = module

    def attribute(self, pixels: torch.Tensor, target: int) -> torch.Tensor:
        del target
        return pixels


def _listed(make: Callable[..., Any]) -> Callable[..., Any]:
    """A generator's items, under the generator's own signature."""

    def call(**given: Any) -> Any:
        return list(make(**given))

    call.__signature__ = inspect.signature(make)  # pyright: ignore[reportFunctionMemberAccess]
    return call


AUDIT = heatproof.Audit(method="gae", settings={}, model="scenes", findings=())
PROOF = heatproof.Proof(
    names=("a", "b"), verdict="open", levels=(), varied={}, steps=(), symbolic=None,
    pairs=((heatproof.methods.create("gae"), heatproof.methods.create("rollout")),),
    exact=None, models=ModelRun(settings=0), limits=(), cost=None, seed=0,
)  # fmt: skip
PAIRS = {"first": torch.eye(2).bool(), "first_weight": torch.ones(2), "second": torch.eye(2).bool(),
         "second_weight": torch.ones(2), "scores": torch.eye(2)}  # fmt: skip

DOORS = {
    "explain": Door(heatproof.explain, _asked),
    "explain_words": Door(heatproof.explain_words, _asked),
    "explain_each": Door(
        _listed(heatproof.explain_each),
        lambda _: {"model": MODEL, "pictures": [PHOTO], "prompts": ["a dog"]},
    ),
    "jacobian": Door(heatproof.jacobian, lambda _: {"model": MODEL, "images": PHOTO}),
    "load_jacobian": Door(heatproof.load_jacobian, lambda folder: {"path": _saved(folder)}),
    "open_store": Door(heatproof.open_store, lambda folder: {"address": _store(folder)}),
    "load": Door(heatproof.load, lambda _: {"spec": "scenes"}),
    "wrap": Door(heatproof.wrap, lambda _: {"module": MODEL.module}),
    "audit": Door(
        heatproof.audit,
        lambda _: {"method": "gae", "model": MODEL},
        ((run, "_data"), (run.Auditor, "audit")),
    ),
    "benchmark": Door(
        heatproof.benchmark,
        lambda _: {"methods": "gae", "model": MODEL, "data": "scenes"},
        ((spreading, "_data"),),
    ),
    "prove": Door(
        heatproof.prove,
        lambda _: {"a": "grad-eclip", "b": "attention-eclip"},
        ((prove_methods, "_forms"), (prove_methods.on_models, "loaded")),
    ),
    "reproduce": Door(heatproof.reproduce, lambda folder: {"out": folder}, ((reproducing, "run"),)),
    "data.open": Door(heatproof.data.open, lambda _: {"spec": "scenes", "most": 1}),
    "data.kinds": Door(heatproof.data.kinds, lambda _: {}),
    "methods.create": Door(heatproof.methods.create, lambda _: {"name": "grad-eclip"}),
    "methods.method_of": Door(heatproof.methods.method_of, lambda _: {"value": "grad-eclip"}),
    "methods.catalogue": Door(heatproof.methods.catalogue, lambda _: {}),
    "methods.Foreign": Door(Foreign, lambda _: {"call": max}),
    "foreign_packages.captum_method": Door(
        heatproof.foreign_packages.captum_method,
        lambda _: {"attribution": _Attribution, "model": MODEL, "prompts": ["a dog"]},
    ),
    "foreign_packages.grad_cam_method": Door(
        heatproof.foreign_packages.grad_cam_method,
        lambda _: {"cam": print, "model": MODEL, "prompts": ["a dog"], "layers": [MODEL.module]},
    ),
    "interactions.text_span": Door(
        heatproof.interactions.text_span, lambda _: {"data": torch.eye(3), "texts": torch.eye(3)}
    ),
    "interactions.head_outputs": Door(
        heatproof.interactions.head_outputs,
        lambda _: {"model": MODEL, "pixels": torch.zeros(1, 3, HEIGHT, WIDTH)},
    ),
    "metrics.create": Door(heatproof.metrics.create, lambda _: {"name": "deletion"}),
    "metrics.catalogue": Door(heatproof.metrics.catalogue, lambda _: {}),
    "scores.create": Door(heatproof.scores.create, lambda _: {"name": "cosine"}),
    "scores.score_of": Door(heatproof.scores.score_of, lambda _: {"value": "cosine"}),
    "interactions.exclip": Door(heatproof.interactions.exclip, lambda f: {**_asked(f), "steps": 1}),
    "interactions.fixlip": Door(
        heatproof.interactions.fixlip, lambda f: {**_asked(f), "budget": 400}
    ),
    "interactions.pair_fit": Door(heatproof.interactions.pair_fit, lambda _: dict(PAIRS)),
    "Explanation.overlay": Door(EXPLAINED.overlay, lambda _: {"image": 0, "prompt": "a dog"}),
    "Explanation.certificate_of": Door(
        EXPLAINED.certificate_of, lambda _: {"image": 0, "prompt": 1}
    ),
    "Explanation.index": Door(EXPLAINED.index, lambda _: {"prompt": 1}),
    "Explanation.save": Door(EXPLAINED.save, lambda folder: {"folder": folder}),
    "Jacobian.maps": Door(JACOBIAN.maps, lambda _: {"prompts": ["a dog", "a cat"]}),
    "Jacobian.scores": Door(JACOBIAN.scores, lambda _: {"prompts": ["a dog", "a cat"]}),
    "Jacobian.explained_scores": Door(
        JACOBIAN.explained_scores, lambda _: {"prompts": ["a dog", "a cat"]}
    ),
    "Jacobian.save": Door(JACOBIAN.save, lambda folder: {"path": folder / "j.safetensors"}),
    "Audit.save": Door(AUDIT.save, lambda folder: {"folder": folder}),
    "Proof.save": Door(PROOF.save, lambda folder: {"folder": folder}),
    "Model.describe": Door(MODEL.describe, lambda _: {"photo": PHOTO}),
}
INSIDE = {
    "methods.register", "metrics.register",  # decorators of a contributor's class
    "scores.score_gradient", "scores.pairs", "scores.score_pairs",  # what methods compute with
    "scores.default", "Model.attention_layers", "Explanation.for_image",
    "WordExplanation.for_image",  # what plots and pages take
    "errors.shortened", "errors.nearest",
    "models.load", "models.wrap",  # the same functions as above
    "Certificate.check", "Certificate.of",  # compare names alone
    "Audit.verdict", "Audit.reason", "Audit.state_in_words",  # ask for a principle by its number
    # Nothing is handed in.
    "Audit.as_json", "Audit.html", "Proof.markdown", "Proof.json", "Proof.lines",
    *(f"Method.{name}" for name in vars(heatproof.Method) if not name.startswith("_")),
}  # fmt: skip
"""Public, but nothing that a user hands values to."""


def _lies_in(owner: ModuleType, value: object) -> bool:
    """In the module, or in a package that gives it a name."""
    home = str(getattr(value, "__module__", ""))
    return home == owner.__name__ or (
        hasattr(owner, "__path__") and home.startswith(owner.__name__)
    )


def _functions(owner: ModuleType | type) -> list[str]:
    names = getattr(owner, "__all__", None) or [
        name
        for name, each in vars(owner).items()
        if not name.startswith("_")
        and (isinstance(owner, type) or _lies_in(owner, each))
    ]  # fmt: skip
    return [name for name in names if inspect.isfunction(getattr(owner, name))]


def test_every_public_function_is_tried():
    """Break: take a door out of `DOORS`, or add a public function."""
    public = set(_functions(heatproof))
    for name in heatproof.__all__:
        owner = getattr(heatproof, name)
        if isinstance(owner, ModuleType | type) and not issubclass(
            type(owner), errors.HeatproofError
        ):
            public |= {f"{name}.{each}" for each in _functions(owner)}
    assert public - INSIDE == set(DOORS) - {"methods.Foreign"}


def _unchecked(call: Callable[..., Any]) -> Callable[..., Any]:
    """As users have it: the tests' own check of shapes would answer first."""
    inner = inspect.unwrap(call)
    owner = getattr(call, "__self__", None)
    return inner if owner is None or inspect.ismethod(inner) else inner.__get__(owner)


def _fault(call: Callable[..., Any], given: dict[str, Any]) -> str | None:
    """What is wrong with how a call ended; None where it worked or was refused rightly."""
    try:
        call(**given)
    except _Started:
        return None
    except errors.HeatproofError as error:
        text = str(error)
        if len(text.splitlines()) != 1 or len(text) > LIMIT or LONG[:2000] in text:
            return f"a message of {len(text)} characters, {len(text.splitlines())} lines"
        return None
    except Exception as error:  # noqa: BLE001 (which is the fault)
        return f"{type(error).__name__}: {str(error)[:150]}"
    return None


@pytest.mark.parametrize("name", DOORS)
def test_odd_values_work_or_are_refused_in_one_line(name, tmp_path, monkeypatch):
    """Break: take any check out of `checking` or of the function itself."""
    monkeypatch.chdir(tmp_path)
    door = DOORS[name]
    for owner, work in door.works:
        monkeypatch.setattr(owner, work, _start)
    call = _unchecked(door.call)
    good = door.good(tmp_path)
    kinds = inspect.signature(call).parameters.values()
    faults: list[str] = []
    for parameter in kinds:
        for kind, make in ODD.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                odd = {"heads": make()} if parameter.kind is parameter.VAR_KEYWORD else {
                    parameter.name: make()
                }  # fmt: skip
                fault = _fault(call, {**door.good(tmp_path), **odd})
            if fault is not None:
                faults.append(f"{name}({parameter.name}={kind}): {fault}")
    gc.collect()
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
    assert _fault(call, good) is None
