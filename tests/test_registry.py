"""Every option of every method, by every door: what it refuses is one line, `all` is any number of
layers."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import heatproof
import tiny
from families import ids, picture, worded
from heatproof import methods
from heatproof.errors import HeatproofError, InputError
from heatproof.methods import registry
from heatproof.models import Model
from method_cases import QUICK, texts

CATALOGUE = methods.catalogue()
OPTIONS = [(name, key) for name, entry in CATALOGUE.items() for key in entry.options]
WITH_LAYERS = [name for name, key in OPTIONS if key == "layers"]
WHOLE = [(n, k) for n, k in OPTIONS if CATALOGUE[n].options[k].kind == "a whole number"]
NUMBERS = [(n, k) for n, k in OPTIONS if CATALOGUE[n].options[k].kind == "a number"]
CHOICES = [(n, k) for n, k in OPTIONS if CATALOGUE[n].options[k].kind == "choice"]
NEVER: tuple[Any, ...] = (
    "many", "", "x" * 10_000, b"2", [], {}, (1, 2), object(), np.zeros(3), torch.zeros(2), 1j,
    math.nan, math.inf, -math.inf, True, Ellipsis, lambda: 1,
)  # fmt: skip
# Numbers that may be negative.
SIGNED = {("m2ib", "alpha")}


@pytest.fixture(scope="module")
def vit() -> Model:
    return worded(tiny.open_clip_vit())


def refused(make: Any) -> None:
    with pytest.raises(InputError) as caught:
        make()
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert 10 < len(said) < 400


def by_both_doors(name: str, key: str, value: Any) -> None:
    refused(lambda: methods.create(name, **{key: value}))
    refused(lambda: registry._METHODS.classes[name](**{key: value}))


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_what_is_no_value_of_an_option_is_one_line(name: str, key: str) -> None:
    option = CATALOGUE[name].options[key]
    for value in NEVER:
        by_both_doors(name, key, value)
    if option.default is not None:
        assert not option.optional
        by_both_doors(name, key, None)


@pytest.mark.parametrize(("name", "key"), WHOLE)
def test_a_fraction_is_no_whole_number(name: str, key: str) -> None:
    for value in (1.5, 2.0, "1.5", "2.0", np.float64(2)):
        by_both_doors(name, key, value)


@pytest.mark.parametrize(("name", "key"), [*WHOLE, *NUMBERS])
def test_a_negative_number_is_refused_before_the_work(vit: Model, name: str, key: str) -> None:
    if (name, key) in SIGNED:
        assert methods.create(name, **{key: -1}).settings()[key] == -1
        return

    def run(**settings: Any) -> None:
        heatproof.explain(vit, picture(vit, 1), texts(1), method=methods.create(name, **settings))

    refused(lambda: run(**{key: -1}))
    refused(lambda: run(**{key: "-1"}))


@pytest.mark.parametrize(("name", "key"), CHOICES)
def test_a_number_is_no_choice(name: str, key: str) -> None:
    for value in (0, 1, 1.5):
        by_both_doors(name, key, value)


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_an_option_takes_its_default_by_both_doors(name: str, key: str) -> None:
    default = CATALOGUE[name].options[key].default
    made = methods.create(name, **{key: default})
    assert made == registry._METHODS.classes[name](**{key: default}) == methods.create(name)
    assert methods.create(name, **{key: str(default)}) == made


@pytest.mark.parametrize(("name", "key"), WHOLE)
def test_numbers_of_numpy_are_numbers(name: str, key: str) -> None:
    given = max(3, int(CATALOGUE[name].options[key].bounds.least or 0))
    value = registry._METHODS.classes[name](**{key: np.int64(given)}).settings()[key]
    assert type(value) is int
    assert value == given


@pytest.mark.parametrize("name", WITH_LAYERS)
@pytest.mark.parametrize("by", ["python", "string"])
def test_all_layers_are_as_many_as_there_are(vit: Model, name: str, by: str) -> None:
    every = registry._METHODS.classes[name](layers="all") if by == "python" else None
    every = every or methods.create(name, layers="all")
    two = methods.create(name, **{**QUICK.get(name, {}), "layers": 2})
    own, found = (
        heatproof.explain(vit, picture(vit), texts(), method=method) for method in (two, every)
    )
    assert torch.equal(found.maps, own.maps)
    assert found.record.settings["layers"] == "all"
    if "text" in CATALOGUE[name].sides:
        own, found = (
            heatproof.explain_words(vit, picture(vit), ids(), method=method)
            for method in (two, every)
        )
        for one, other in zip(found.maps, own.maps, strict=True):
            assert all(map(torch.equal, one, other))


def test_layers_are_offered_as_a_number_or_all() -> None:
    option = CATALOGUE["gae"].options["layers"]
    assert option.values == "a whole number or all"
    with pytest.raises(InputError, match=r"got layers='every' for gae, expected a whole number or"):
        methods.create("gae", layers="every")
    with pytest.raises(HeatproofError, match="got masks=0 for rise, expected a whole number, at"):
        methods.RISE(masks=0)
