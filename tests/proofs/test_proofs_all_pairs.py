"""All pairs: twins are recognised, factors are told from differences, witnesses are real."""

from dataclasses import replace

import pytest

from heatproof.cli import main
from heatproof.methods.proxy import MethodProxy
from heatproof.proofs import all_pairs as ap
from heatproof.proofs import models as on_models

NAMES = ("grad-eclip", "attention-eclip", "attention-x-gradient", "raw-attention", "center")
CASES = [lambda n=name: on_models.specimen(n) for name in ("open_clip vit", "hf siglip")]


@pytest.fixture(scope="module")
def found():
    said: list[str] = []
    return ap.all_pairs(NAMES, CASES, said.append), said


def of(results, *names):
    return next(result for result in results if set(result.names) == set(names))


def test_the_papers_pair_is_equal_and_proved(found):
    result = of(found[0], "grad-eclip", "attention-eclip")
    assert (result.relation, result.proved, result.models) == ("equal", True, 2)


def test_others_are_refuted_with_a_witness(found):
    result = of(found[0], "raw-attention", "attention-x-gradient")
    assert result.relation == "refuted"
    assert "specimen:open_clip vit" in result.witness
    # Both have a formula: the smallest layer of fractions stands beside the model.
    assert "1 head(s), 1 token(s), 1 channel(s)" in result.witness
    assert of(found[0], "raw-attention", "center").witness


def test_every_pair_has_one_result_and_levels_are_said_as_they_end(found):
    results, said = found
    assert len(results) == 10
    assert all(result.relation != "not comparable" for result in results)
    assert [line.split(",")[0] for line in said[:2]] == ["level models"] * 2
    assert said[-1].endswith("1 equal, 9 refuted")


class Twin(MethodProxy):
    """A method under another name, its values times a factor."""

    def __init__(self, name: str, factor: float = 1.0) -> None:
        super().__init__(ap.entries(("attention-x-gradient",))[0].method)
        self.card, self.factor = replace(self.method.card, name=name), factor

    def attribute(self, read):
        return self.method.attribute(read) * self.factor


@pytest.mark.parametrize(
    ("factor", "relation"),
    [(1.0, "equal"), (3.0, "same up to a factor"), (-1.0, "refuted")],
)
def test_a_twin_is_recognised_and_its_factor_too(factor, relation):
    """Break: a comparison that forgets the sign, or the scale."""
    pair = [ap.Entry(Twin("one"), True), ap.Entry(Twin("other", factor), True)]
    comparison = ap.PairTable(pair)
    comparison.add(on_models.specimen("open_clip vit"))
    (result,) = ap._results(comparison)
    assert result.relation == relation
    assert bool(result.witness) == (relation == "refuted")


def test_what_no_model_takes_is_not_comparable():
    pair = [ap.Entry(Twin("one"), True), ap.Entry(Twin("other"), True)]
    (result,) = ap._results(ap.PairTable(pair))
    assert result.relation == "not comparable"


def test_all_stands_without_names(capsys):
    assert main.run(["prove", "gae", "--all"]) == 2
    assert "leave out" in capsys.readouterr().err
