"""The paper's claims as experiments: parity with `explain`, planted conclusions, a whole run."""

import json

import pytest
import torch
from PIL import Image

import heatproof
from heatproof import methods
from heatproof.cli import main
from heatproof.evaluation.presence import margin
from heatproof.evaluation.store import PartStore
from heatproof.recipes.grad_eclip_paper import reproducing
from heatproof.recipes.grad_eclip_paper.alignment import joined
from heatproof.recipes.grad_eclip_paper.catalogue import compared
from heatproof.recipes.grad_eclip_paper.conclusions import conclude, side_of_zero
from heatproof.recipes.grad_eclip_paper.maps import (
    encode_pictures,
    encode_texts,
    image_maps,
    text_maps,
)
from heatproof.recipes.grad_eclip_paper.numbers import stratified
from heatproof.recipes.grad_eclip_paper.reproducing import ReproduceRequest, run


@pytest.fixture(scope="module")
def scenes():
    return heatproof.load("scenes")


# --- maps of pairs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grad-eclip", "attention-x-gradient", "gae"])
def test_maps_of_pairs_are_the_diagonal_of_explain(scenes, name):
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    texts = ["a red ring", "a star", "a blue moon"]
    targets = encode_texts(scenes, texts)
    whole = heatproof.explain(scenes, pixels, texts, method=name, certify=False)
    maps, scores = image_maps(scenes, methods.create(name), pixels, targets, seed=0)
    for n in range(3):
        assert torch.allclose(maps[n], whole.maps[n, n], atol=1e-6)
        assert float(scores[n]) == pytest.approx(float(whole.explained_scores[n, n]), abs=1e-5)
    words = heatproof.explain_words(scenes, pixels, texts, method=name, certify=False)
    tokens = scenes.text.tokenize(texts)
    pictures = encode_pictures(scenes, pixels)
    values, _ = text_maps(scenes, methods.create(name), tokens, pictures, seed=0)
    for n in range(3):
        at = [piece.position for piece in tokens.pieces[n]]
        assert torch.allclose(values[n, at], words.maps[n][n], atol=1e-6)


# --- statistics and conclusions -----------------------------------------------------------------


def test_a_confounder_alone_makes_no_difference_within_strata():
    """Large objects are found and answered rightly more often: nothing else is planted."""
    stratum = torch.arange(40) % 2
    values = stratum.double()
    right = (torch.arange(40) % 8 == 0) | ((stratum == 1) & (torch.arange(40) % 5 != 0))
    naive = values[right].mean() - values[~right].mean()
    assert naive > 0.2
    assert stratified(values, right, stratum).value == pytest.approx(0.0)
    planted = stratified(values + 0.25 * right, right, stratum)
    assert planted.value == pytest.approx(0.25)
    # Of an effect that is the same everywhere no spread can be measured, so it is no certainty.
    assert 0 < planted.low < 0.24
    noise = 0.01 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    noisy = stratified(values + noise + 0.25 * right, right, stratum)
    assert 0.2 < noisy.low < 0.25 < noisy.high < 0.3


def test_right_means_above_every_absent_prompt_and_no_other():
    cosines = torch.tensor([[0.2, 0.3, 0.1], [0.2, 0.3, 0.1]])
    absent = torch.tensor([[False, False, True], [False, True, True]])
    found = margin(cosines, torch.tensor([0, 0]), ~absent)
    assert (found > 0).tolist() == [True, False]
    assert found.tolist() == pytest.approx([0.1, -0.1])


def ends(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high, "count": 12}


def test_verdicts_follow_the_interval_and_nothing_else():
    assert side_of_zero(ends(-0.2, -0.1), "below") == "shown"
    assert side_of_zero(ends(-0.2, -0.1), "above") == "contradicted"
    assert side_of_zero(ends(-0.1, 0.2), "below") == "not shown"
    assert side_of_zero({**ends(-0.2, -0.1), "count": 9}, "below") == "not measured"
    assert side_of_zero({"value": 1.0, "low": None, "high": None}, "above") == "not measured"


def causes(choice, accuracy):
    """A planted section (c) in which the published map and the model moved so far."""
    zero = ends(-0.01, 0.01)
    cell = {q: ends(0.4, 0.6) for q in ("choice", "pointing")}
    published = {**cell, "choice, against none": choice, "pointing, against none": zero}
    moved = {"accuracy": accuracy, "choice": zero, "pointing": zero}
    return {
        "pictures": 9,
        "alone": {"nothing": "none", "all three, as published": "published"},
        "cells": {"none": cell, "published": published},
        "moved": [
            {"weight": "loosened (output)", "choice, less than attention": ends(0.1, 0.2), **moved},
            {"weight": "attention", **moved},
        ],
    }


def test_localises_worse_is_claimed_only_where_the_interval_says_so():
    def verdict(interval):
        found = conclude({"c": causes(interval, ends(-0.2, -0.1))})
        return next(c["verdict"] for c in found if "worse than on the untouched" in c["claim"])

    assert verdict(ends(-0.2, -0.1)) == "shown"
    assert verdict(ends(-0.2, 0.1)) == "not shown"
    assert verdict(ends(0.1, 0.2)) == "contradicted"


def test_a_model_that_did_not_move_tests_no_map():
    still = conclude({"c": causes(ends(-1, 1), ends(-0.1, 0.1))})
    assert [c["verdict"] for c in still if "gets" in c["claim"]] == ["not measured"] * 3
    moved = conclude({"c": causes(ends(-1, 1), ends(-0.2, -0.1))})
    said = [c["verdict"] for c in moved if "gets" in c["claim"]]
    assert said == ["not shown", "shown", "not shown"]


def test_maps_that_differ_contradict_the_equivalence():
    data = {
        "settings": 1,
        "pictures": 1,
        "worst": {"float64": 1e-15},
        "rows": [{}, {}],
        "not finite": 0,
        "all zero": 1,
    }
    assert [c["verdict"] for c in conclude({"a": data})] == ["shown"]
    data["worst"]["float64"] = 1e-3
    assert [c["verdict"] for c in conclude({"a": data})] == ["contradicted"]
    assert conclude({"a": None}) == []


def test_an_equivalence_of_nothing_is_not_shown():
    """Before: "shown", for all() over nothing is true."""
    data = {
        "settings": 1,
        "pictures": 1,
        "worst": {"float64": None},
        "rows": [],
        "not finite": 0,
        "all zero": 0,
    }
    verdicts = lambda **more: [c["verdict"] for c in conclude({"a": data | more})]  # noqa: E731
    assert verdicts() == ["not measured"]
    zeros = {"worst": {"float64": 0.0}, "rows": [{}, {}]}
    assert verdicts(**zeros, **{"all zero": 2})[0] == "not measured"
    assert verdicts(**zeros, **{"all zero": 1})[0] == "shown"
    assert verdicts(**zeros, **{"not finite": 1})[0] == "contradicted"


# --- the store --------------------------------------------------------------------------------


def test_parts_are_made_once_and_again_for_other_settings(tmp_path):
    made: list[int] = []

    def make():
        made.append(1)
        return {"value": float("nan"), "list": torch.tensor([1, 2])}

    store = PartStore(tmp_path, {"seed": 0})
    first = store.part("x", make)
    assert first == {"value": None, "list": [1, 2]}
    assert PartStore(tmp_path, {"seed": 0}).part("x", make) == first
    assert len(made) == 1
    store.part("x", make, stop=3)
    PartStore(tmp_path, {"seed": 1}).part("x", make)
    assert len(made) == 3


def test_an_interrupted_part_leaves_nothing_and_a_broken_one_is_made_again(tmp_path):
    store = PartStore(tmp_path, {})

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.part("x", interrupted)
    assert list(tmp_path.iterdir()) == []
    store.part("x", lambda: {"a": 1})
    next(tmp_path.iterdir()).write_text('{"a"')
    assert store.part("x", lambda: {"a": 2}) == {"a": 2}


def test_joining_parts_puts_lists_one_behind_the_other():
    one, other = {"a": [1], "b": {"c": [2]}}, {"a": [3], "b": {"c": [4]}}
    assert joined(joined({}, one), other) == {"a": [1, 3], "b": {"c": [2, 4]}}


# --- a whole run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduce")
    return out, run(ReproduceRequest(images=6, quick=True), out)


@pytest.mark.slow
def test_a_run_writes_a_page_that_needs_nothing_else(ran):
    out, result = ran
    page = (out / "reproduce.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page
    assert page.count("data:image/png") == len(list((out / "figures").glob("*.png"))) == 11
    stored = json.loads((out / "reproduce.json").read_text())
    assert stored == result
    assert stored["environment"]["weights_sha256"][:16] in page
    for each in result["conclusions"]:
        assert each["verdict"] in ("shown", "not shown", "contradicted", "not measured")
    assert {c["section"] for c in result["conclusions"]} == set("abcde")
    for path in (out / "figures").glob("*.png"):
        with Image.open(path) as figure:
            assert min(figure.size) > 250


@pytest.mark.slow
def test_the_experiments_agree_with_what_is_known_of_them(ran):
    sections = ran[1]["sections"]
    assert sections["a"]["worst"]["float64"] < 1e-12
    assert sections["a"]["worst"]["float32"] < 1e-4
    for task in sections["b"]["tasks"]:
        for side in task["sides"].values():
            assert side[0]["embedding cosine"]["value"] == pytest.approx(1, abs=1e-5)
            assert side[1]["embedding cosine"]["value"] < 0.9999
    cells = sections["c"]["cells"]
    assert len(cells) == 16
    for name, cell in cells.items():
        if name.startswith("model heads") and name.endswith("native"):
            assert cell["gap"]["value"] < 1e-5  # the untouched model is what was explained
        else:
            assert cell["gap"]["value"] > 1e-4
        if "loosened" not in name:  # nothing but the heads is put in the model's place
            assert cell["implied right"] == cell["explained right"]
    loosened = [cell for name, cell in cells.items() if "loosened" in name]
    assert any(cell["implied right"] != cell["explained right"] for cell in loosened)
    family = sections["d"]["family"]
    assert family["names"][0] == "step-00000"
    for name in compared():
        assert len(family["methods"][name]["choice"]["by grade"]) == len(family["names"])
    for protocol in sections["e pictures"]["protocols"]:
        found = protocol["methods"]
        for twin in ("", ", untouched model"):
            one, other = found[f"grad-eclip{twin}"], found[f"attention-eclip{twin}"]
            assert one["top-1"]["area"]["value"] == pytest.approx(
                other["top-1"]["area"]["value"], abs=0.1
            )
        curves = [found[name]["top-1"]["curve"] for name in found]
        shared = 0 if protocol["direction"] == "deletion" else -1
        if protocol["source"] == "corrected" or shared == 0:
            assert len({curve[shared] for curve in curves}) == 1


@pytest.mark.slow
def test_a_second_run_makes_nothing_anew_and_says_the_same(ran, monkeypatch):
    out, result = ran
    for letter, experiments in reproducing.EXPERIMENTS.items():
        del letter
        for name, _ in experiments:
            assert list((out / "parts").glob(f"section-{name.replace(' ', '-')}-*.json"))

    def never(*_):
        raise AssertionError("made anew")

    monkeypatch.setattr(
        reproducing, "EXPERIMENTS", {k: tuple((n, never) for n, _ in v) for k, v in
                                     reproducing.EXPERIMENTS.items()}
    )  # fmt: skip
    again = run(ReproduceRequest(images=6, quick=True), out)
    assert again["sections"] == result["sections"]
    assert again["conclusions"] == result["conclusions"]


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    order = ReproduceRequest(images=6, quick=True, only=("b",))
    asked: list[str] = []

    def stopped(doing, done, of):
        del done, of
        asked.append(doing)
        if "colour" in doing:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(order, tmp_path, stopped)
    assert len(list((tmp_path / "parts").glob("b-shape-*.json"))) == 1
    again: list[str] = []
    result = run(order, tmp_path, lambda doing, *_: again.append(doing))
    assert not any(doing.endswith(", shape") for doing in again)
    assert list(result["sections"]) == ["b"]
    assert (tmp_path / "figures" / "b-accuracy.png").is_file()


def test_what_is_wrong_is_said_in_one_line_with_code_2(tmp_path, capsys):
    for arguments, expected in (
        (["--only", "x"], "unknown experiment 'x'"),
        (["--imagenet", str(tmp_path / "no")], "is not a folder; expected ImageNet"),
        (["--model", "timm:test_vit"], "reads no text"),
    ):
        code = main.run(["reproduce", "-o", str(tmp_path / "out"), "--quick", *arguments])
        said = capsys.readouterr().err.strip().splitlines()
        assert code == 2
        assert expected in said[-1]
        assert said[-1].startswith("heatproof: ")
