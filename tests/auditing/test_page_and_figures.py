"""The pages of an audit and their pictures, from findings made by hand: no model, no method."""

import json
import re
from dataclasses import replace
from typing import Any, Literal

import pytest

from heatproof.auditing.base import Finding, Verdict, checks
from heatproof.auditing.checks.parity import ParityCheck
from heatproof.auditing.drawing import draw, has_figure
from heatproof.auditing.league import league_html, league_rows, save_league
from heatproof.auditing.result import Audit, from_json
from heatproof.auditing.run import Auditor
from heatproof.cli import main

BY_TITLE = {check.card.title: check for check in checks()}
FIGURES = [check.card.title for check in checks() if has_figure(check)]


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "count": 10}


SOME = interval(0.5, 0.4, 0.6)
JUDGED = {"statistic": SOME, "controls": {"random": SOME}, "a map that follows": SOME, "limit": 0.1}


def cell(gap: float, limit: float) -> dict[str, float]:
    return {"gap": gap, "limit": limit}


def change(moved: float, preserved: bool = True) -> dict[str, Any]:
    return {"embedding": 0.0, "map": moved, "function preserved": preserved}


def accuracy(value: float) -> dict[str, float]:
    return interval(value, value - 0.1, min(1, value + 0.1)) | {"chance": 0.125}


def graded_model(name: str, share: float) -> dict[str, Any]:
    controls = {"random": SOME, "center": SOME, "a map that follows": SOME}
    where = interval(share, share - 0.1, share + 0.1)
    return {"model": name, "accuracy": where, "quality": SOME, "controls": controls}


def intervention(costs: bool) -> dict[str, Any]:
    lost = {"accuracy lost": SOME, "quality lost": SOME, "quality lost by a map that follows": SOME}
    return {"model": "one head", "costs accuracy": costs, **lost}


def side(questions: int) -> dict[str, Any]:
    return {
        "questions": questions,
        "map chooses the object": interval(0.75, 0.6, 0.9),
        "choice above chance": SOME,
    }


NOTHING: dict[str, Any] = {"value": None, "low": None, "high": None, "count": 0}
WAYS = {"all ways": SOME, "tokens": SOME, "blur": interval(-0.5, -0.7, -0.3)}
NUMBERS: dict[str, dict[str, Any]] = {
    "parity": {
        "sides": {
            "image": {"float64": cell(2e-16, 1e-10), "bfloat16": cell(0.5, 0.03)},
            "text": {"float64": cell(0, 1e-10)},
        }
    },
    "reparametrisation": {
        "changes": {"values": change(0.18), "shift": None, "order": change(0.2, preserved=False)},
        "rounding": {"map": 0.0},
        "control": {"map": 0.05},
        "map limit": 6e-5,
    },
    "implied model": {
        "models": {
            "one head": {
                "embedding cosine": 0.9,
                "lowest embedding cosine": 0.8,
                "accuracy": accuracy(0.8),
            },
            "flat attention": {"embedding cosine": 0.7, "accuracy": accuracy(0.6)},
        },
        "yours": {"accuracy": accuracy(0.95)},
    },
    "graded family": {"models": [graded_model("first", 0.5), graded_model("last", 0.9)]},
    "moved model, unmoved map": {
        "interventions": [intervention(True), intervention(True), intervention(False)]
    },
    "right and wrong": {"cells": {"model right": side(48), "model wrong": side(5)}},
    "null prompts": {
        "change": {"other": SOME, "empty": SOME},
        "noise floor": interval(0, 0, 0),
        "change over the floor": {"other": JUDGED, "empty": JUDGED},
    },
    "sign": {"effects": {"positive": WAYS, "negative": WAYS}},
    "attribution error": {
        "error": SOME,
        "error of another picture's sum": interval(1.3, 1, 1.6),
        "error of a map of zeros": 1.0,
    },
    "blind model": {
        "blind in": {
            "every layer": {
                "share of the intact spread": 0.6,
                "phantom localisation": {"value": SOME, "before": SOME},
            },
            "the last layer": {"share of the intact spread": 0.0, "phantom localisation": None},
        }
    },
    "following the cause": {
        "ladders": {
            "one head": {"following": SOME, "without the first rung": SOME},
            "noise": {"following": SOME, "without the first rung": NOTHING},
            "blindness": {"rungs": [], "why not": "it is so"},
        }
    },
}


def finding(
    check: str,
    verdict: Verdict = "holds",
    numbers: dict[str, Any] | None = None,
    evidence: str = "it is so",
    principle: Literal[1, 2] = 1,
) -> Finding:
    own = NUMBERS.get(check, {}) if numbers is None else numbers
    return Finding(
        id=BY_TITLE[check].card.name,
        check=check,
        principle=principle,
        question="Is it so?",
        verdict=verdict,
        evidence=evidence,
        numbers=own,
    )


def picture(check: str, numbers: dict[str, Any] | None = None) -> str:
    return draw(finding(check, numbers=numbers))


def marks(svg: str, kind: str) -> int:
    """How many drawn things are of this kind."""
    return svg.count(f'data-kind="{kind}"')


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


# --- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "counts", "words"),
    [
        (
            "parity",
            {"ours": 3, "limit": 3},
            ["image, float64", "text, float64", "0.5", "2e-16", "0"],
        ),
        (
            "reparametrisation",
            {"ours": 1, "limit": 4, "control": 3},
            ["values", "order (function moves)", "rounding", "control: another function", "0.18"],
        ),
        (
            "implied model",
            {"bar": 3, "ours": 2, "yours": 1, "chance": 1},
            ["your model", "with one head", "with flat attention", "accuracy"],
        ),
        (
            "graded family",
            {
                "ours": 2,
                "random": 2,
                "center": 2,
                "a-map-that-follows": 2,
                "chance-of-maps": 1,
                "chance-of-models": 1,
            },
            ["this method", "random", "center", "a map that follows"],
        ),
        (
            "moved model, unmoved map",
            {"ours": 2, "free": 1, "a-map-that-follows": 3, "unmoved": 1},
            ["an intervention", "costs the model nothing"],
        ),
        (
            "right and wrong",
            {"bar": 2, "rest": 2, "gain": 2},
            ["model right", "(48 questions)", "(5 questions)", "map elsewhere"],
        ),
        (
            "null prompts",
            {"bar": 2, "limit": 2, "a-map-that-follows": 2},
            ["other", "empty", "0 the same map", "2 opposite"],
        ),
        ("sign", {"bar": 6}, ["all ways", "tokens", "blur", "positive", "negative"]),
        (
            "attribution error",
            {"bar": 3},
            ["this method's sum", "another image's sum", "a map of zeros"],
        ),
        (
            "blind model",
            {"bar": 2, "value": 1, "before": 1, "chance": 1},
            ["blind in every layer", "blind in the last layer", "intact"],
        ),
        (
            "following the cause",
            {"following": 2, "rest": 1, "in-step": 1, "unmoved": 1},
            ["one head", "noise", "without the first rung"],
        ),
    ],
)
def test_every_check_has_its_picture(check, counts, words):
    svg = picture(check)
    assert {kind: marks(svg, kind) for kind in counts} == counts
    assert [word for word in words if word not in texts(svg)] == []


def test_the_cases_above_are_all_checks_with_pictures():
    assert set(NUMBERS) == set(FIGURES)


def bar_ends(svg: str) -> list[float]:
    """Where each bar ends on the page, from its path: starts, then its right end."""
    paths = re.findall(r'"bar">\s*<path d="M ([\d.]+) [\d.]+ \s*L ([\d.]+)', svg)
    return [float(end) for _, end in paths]


def test_bars_are_as_long_as_their_values():
    svg = picture("attribution error")
    start = float(re.findall(r'"bar">\s*<path d="M ([\d.]+)', svg)[0])
    lengths = [end - start for end in bar_ends(svg)]
    assert [length / lengths[2] for length in lengths] == pytest.approx([0.5, 1.3, 1], rel=1e-4)


def test_a_broken_limit_is_red_and_a_kept_one_is_not():
    kept = picture("parity", {"sides": {"image": {"float64": cell(1e-12, 1e-10)}}})
    broken = picture("parity", {"sides": {"image": {"float64": cell(1e-9, 1e-10)}}})
    ours = [svg[svg.index('"ours"') :].split("</defs>")[0] for svg in (kept, broken)]
    assert ["#a3123a" in part for part in ours] == [False, True]


@pytest.mark.parametrize("gap", [float("nan"), float("inf"), None])
def test_a_gap_that_is_no_number_is_told(gap):
    svg = picture("parity", {"sides": {"image": {"float64": cell(gap, 1e-10)}}})
    assert "no finite number" in texts(svg)
    assert marks(svg, "ours") == 0


def test_pictures_have_no_date_and_are_the_same_again():
    assert picture("sign") == picture("sign")
    assert not re.search(r"<dc:|20\d\d-", picture("sign"))


def test_ids_of_two_pictures_do_not_meet():
    found = [set(re.findall(r'id="([^"]+)"', picture(check))) for check in FIGURES]
    assert sum(map(len, found)) == len(set.union(*found))
    refers = re.findall(r'(?:url\(#|href="#)([^)"]+)', picture("graded family"))
    assert refers
    assert set(refers) <= set(re.findall(r'id="([^"]+)"', picture("graded family")))


def test_implied_models_without_labels_are_drawn_by_cosine_alone():
    models = {"one head": {"embedding cosine": 0.9}}
    svg = picture("implied model", {"models": models, "yours": {}})
    assert (marks(svg, "bar"), marks(svg, "ours"), marks(svg, "yours")) == (0, 1, 1)
    assert "with one head" in texts(svg)


def test_values_that_are_missing_leave_gaps():
    nothing = {"value": None, "low": None, "high": None, "count": 0}
    numbers = {"effects": {"positive": WAYS, "negative": WAYS | {"blur": nothing}}}
    assert marks(picture("sign", numbers), "bar") == 5


def test_names_are_no_formulas_and_no_markup():
    ways = {"a $b$ & <c>": SOME}
    assert "a $b$ &amp; &lt;c&gt;" in texts(picture("sign", {"effects": {"positive": ways}}))


@pytest.mark.parametrize("check", FIGURES)
def test_odd_layouts_have_no_figure_and_the_page_says_so(check):
    whole = NUMBERS[check]
    odd: list[dict[str, Any]] = [{"else": 1}]
    odd += [dict.fromkeys(whole, kind) for kind in (None, True, "text", [], {}, [1], {"a": 1})]
    for numbers in odd:
        page = audit("m", finding(check, numbers=numbers)).html()
        assert "<svg" not in page
        assert "No figure: " in page, numbers
    assert "No figure: its numbers have another layout (KeyError: " in (
        audit("m", finding(check, numbers={"else": 1})).html()
    )
    assert "No figure" not in audit("m", finding(check)).html()


def test_a_figure_that_fails_otherwise_is_no_odd_layout(monkeypatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(ParityCheck, "figure", broken)
    with pytest.raises(RuntimeError, match="out of ink"):
        audit("m", finding("parity")).html()


def test_checks_without_picture_have_none():
    assert picture("forward monitor", {"passes": 1}) == ""


# --- pages ------------------------------------------------------------------------------------


def audit(method: str = "some-method", *found: Finding, **more: Any) -> Audit:
    findings = found or (finding("parity"), finding("sign", principle=2))
    settings = {"heads": "all", "off": None}
    return Audit(method=method, settings=settings, model="scenes", findings=findings, **more)


def test_the_page_escapes_what_others_named():
    bad = "<script>alert('&')</script>"
    where = finding("parity", evidence=bad, numbers={"sides": {bad: {"float64": cell(1, 2)}}})
    page = Audit(
        method=bad,
        settings={"switch": bad},
        model=bad,
        findings=(where,),
        notices=(bad,),
        environment={bad: bad},
    ).html()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8
    plain = Audit(method=bad, settings={}, model=bad, findings=(where,))
    assert "<script" not in league_html([plain], {})
    assert "<script" not in league_html([plain], {bad: bad})


def verdict_of(page: str) -> str:
    found = re.search(r'<div class="verdict[^>]*>.*?</div>', page)
    assert found
    return found[0]


ESTABLISHING = {
    1: ("parity", "forward monitor", "reparametrisation", "readout"),
    2: ("graded family", "null prompts"),
}


def held(principle: Literal[1, 2], **others: Verdict) -> list[Finding]:
    """Findings that establish a principle, but for those of other verdicts."""
    names = [*ESTABLISHING[principle], *others]
    given = {name.replace("_", " "): verdict for name, verdict in others.items()}
    names = dict.fromkeys(name.replace("_", " ") for name in names)
    return [finding(name, given.get(name, "holds"), {}, principle=principle) for name in names]


def test_a_violated_finding_stands_in_the_verdict():
    found = audit("m", *held(1), *held(2, sign="violated"))
    told = verdict_of(found.html())
    assert 'class="verdict fails"' in told
    assert "At least one principle is violated" in told
    assert "Principle 1 holds<br>Principle 2 violated (sign)" in told
    assert found.holds is False
    assert found.sentence == "m on scenes: VIOLATED: principle 1 holds; principle 2 violated (sign)"


def test_what_is_established_is_said_and_what_is_unclear_beside_it():
    found = audit("m", *held(1), *held(2, sign="cannot tell"))
    told = verdict_of(found.html())
    assert 'class="verdict holds"' in told
    assert "Both principles hold here" in told
    assert found.holds is True
    assert found.sentence == (
        "m on scenes: holds: principle 1 holds; principle 2 holds; cannot tell: sign"
    )


def test_nothing_checked_is_nothing_established():
    """Before: holds True, "No principle is violated here"."""
    found = audit("m", question={"principles": [2]}, unmeasured={2: "too slow"})
    found = replace(found, findings=())
    told = verdict_of(found.html())
    assert found.holds is None
    assert 'class="verdict unproven"' in told
    assert "Nothing is violated, but not every principle is established" in told
    assert "Principle 2 not measured (too slow)" in told
    assert "Not measured: too slow." in found.html()
    assert found.sentence == (
        "m on scenes: NOT ESTABLISHED: principle 1 not measured (it was not asked for); "
        "principle 2 not measured (too slow)"
    )
    stored = json.loads(json.dumps(found.as_json()))
    assert stored["holds"] is None
    assert stored["principles"]["2"] == {"state": "not measured", "reason": "too slow"}
    assert from_json(stored) == found


def test_a_principle_that_was_asked_for_and_not_measured_is_not_established():
    found = audit("m", *held(1), question={"principles": [1, 2]}, unmeasured={2: "no data"})
    assert (found.verdict(1), found.verdict(2), found.holds) == ("holds", "not measured", None)
    alone = replace(found, question={"principles": [1]}, unmeasured={})
    assert alone.holds is True
    assert "the other was not asked for" in alone.headline


@pytest.mark.parametrize(
    ("principle", "others", "state"),
    [
        (1, {}, "holds"),
        (1, {"parity": "not applicable"}, "holds"),
        (1, {"forward_monitor": "cannot tell"}, "holds"),
        (1, {"parity": "not applicable", "forward_monitor": "cannot tell"}, "not established"),
        (1, {"parity": "not applicable", "forward_monitor": "not applicable"}, "not established"),
        (1, {"reparametrisation": "not applicable"}, "holds"),
        (1, {"reparametrisation": "cannot tell"}, "not established"),
        (1, {"readout": "not applicable"}, "holds"),
        (1, {"readout": "cannot tell"}, "not established"),
        (1, {"implied_model": "violated"}, "violated"),
        (2, {}, "holds"),
        (2, {"sign": "cannot tell", "attribution_error": "cannot tell"}, "holds"),
        (2, {"graded_family": "cannot tell"}, "not established"),
        (2, {"graded_family": "cannot tell", "right_and_wrong": "holds"}, "holds"),
        (2, {"null_prompts": "cannot tell"}, "not established"),
        (2, {"null_prompts": "not applicable"}, "holds"),
    ],
)
def test_a_principle_is_established_by_the_checks_that_decide_it(principle, others, state):
    found = audit("m", *held(principle, **others), question={"principles": [principle]})
    assert found.verdict(principle) == state
    assert found.holds is {"holds": True, "violated": False, "not established": None}[state]
    assert bool(found.reason(principle)) is (state != "holds")


def test_the_page_has_each_check_once_with_picture_and_numbers_folded():
    page = audit().html()
    sections = re.findall(r'<section class="finding" id="([^"]+)">(.*?)</section>', page, re.S)
    assert [name for name, _ in sections] == ["parity", "sign"]
    for name, text in sections:
        assert f'href="#{name}"' in page
        assert text.count("<svg") == 1
        assert re.search(r"<details><summary>Numbers</summary><pre>", text)
    assert page.index('class="verdict') < page.index("<table") < page.index("<section")


def test_audit_json_is_read_back_as_it_was(tmp_path):
    whole = audit(
        notices=("a notice",), environment={"seed": 0}, question={"pictures": 40}, seconds=1.5
    )
    whole.save(tmp_path)
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert from_json(stored) == whole
    assert from_json(stored).html() == (tmp_path / "audit.html").read_text(encoding="utf-8")


def league() -> list[Audit]:
    def of(name: str, *findings: Finding) -> Audit:
        return audit(name, *findings, question={"principles": [1]})

    gap = finding("parity", "violated", evidence="a | gap")
    wrong = finding("sign", "violated", evidence="it is wrong")
    return [
        of("worst", gap, *held(1)[1:], wrong),
        of("b-good", *held(1, sign="holds")),
        of("one", *held(1), wrong),
        of("unsure", *held(1, sign="cannot tell")),
        audit("a-good", *held(1), question={"principles": [1, 2]}, unmeasured={2: "too slow"}),
    ]


def test_the_league_says_what_is_not_established():
    open_question = audit("m", *held(1, readout="cannot tell"))
    assert league_rows([open_question])[1][0][-1] == (
        "principle 1 not established (is it the model's own output? (readout: cannot tell))"
    )


def test_the_league_is_ordered_by_violations_and_what_was_not_asked_earns_nothing():
    head, rows = league_rows(league())
    checks = ["parity", "forward monitor", "reparametrisation", "readout", "sign"]
    held_too = ["holds"] * 3
    assert head == ["method", *checks, "first violation, or what is not established"]
    assert rows == [
        ["b-good", "holds", *held_too, "holds", ""],
        ["unsure", "holds", *held_too, "?", ""],
        ["one", "holds", *held_too, "VIOLATED", "sign: it is wrong"],
        ["worst", "VIOLATED", *held_too, "VIOLATED", "parity: a | gap"],
        ["a-good", "holds", *held_too, "not asked", "principle 2 not measured (too slow)"],
    ]


def test_the_league_page_marks_verdicts_and_leads_to_the_methods(tmp_path):
    page = save_league(league(), tmp_path).read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)[1:]
    shapes = [re.findall(r'class="(\w+)" role="img" aria-label="([^"]+)"', row) for row in rows]
    assert shapes[0] == [("ok", "holds")] * 5
    assert shapes[1][4] == ("faint", "cannot tell")
    assert shapes[3] == [("bad", "violated"), *[("ok", "holds")] * 3, ("bad", "violated")]
    assert shapes[4][4] == ("faint", "not asked")
    assert '<a href="worst/audit.html">worst</a>' in rows[3]
    assert '<span title="sign: it is wrong">sign: it is wrong</span>' in rows[2]
    lines = (tmp_path / "league.md").read_text().splitlines()
    assert lines[-2] == (
        "| `worst` | VIOLATED | holds | holds | holds | VIOLATED | parity: a / gap |"
    )


def test_ctrl_c_says_where_finished_methods_are(tmp_path, monkeypatch, capsys) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("heatproof.auditing.run.Auditor.audit", stopped)
    assert main.run(["audit", "center,edges", "--principle", "1", "-o", str(tmp_path)]) == 130
    assert f"finished parts are in {tmp_path}" in capsys.readouterr().err.replace("\n", "")


def test_an_audit_of_many_goes_on_with_the_same_code_alone(tmp_path, monkeypatch, capsys) -> None:
    command = ["audit", "center,edges", "--principle", "1", "-o", str(tmp_path)]
    assert main.run(command) == 1
    made: list[str] = []
    whole = Auditor.audit

    def noted(self: Auditor, method: Any, **more: Any) -> Audit:
        made.append(method.card.name)
        return whole(self, method, **more)

    monkeypatch.setattr(Auditor, "audit", noted)
    assert main.run(command) == 1
    assert made == []
    capsys.readouterr()
    (tmp_path / "center" / "audit.json").write_text("[")
    assert main.run(command) == 1
    assert made == ["center"]
    told = capsys.readouterr()
    assert "audit.json cannot be read (JSONDecodeError); center is audited again" in told.err
    assert told.out.splitlines()[-1] == ("2 methods: 0 established, 2 violated, 0 not established")
    made.clear()
    stored = json.loads((tmp_path / "edges" / "audit.json").read_text())
    stored["environment"]["code_sha256"] = "another"
    (tmp_path / "edges" / "audit.json").write_text(json.dumps(stored))
    assert main.run(command) == 1
    assert made == ["edges"]
