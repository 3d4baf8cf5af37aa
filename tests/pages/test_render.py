"""Templates: what is handed in is escaped, what is missing stops the page, the wheel has all."""

import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from jinja2 import Environment, UndefinedError, nodes

from heatproof.pages import render
from heatproof.pages.render import Cell

TEMPLATES = Path(render.__file__).parent / "templates"
EVIL = "<script>'\"&"


def table_page(rows: list[list[str | Cell]]) -> str:
    macro = render._environment().get_template("macros.html").module.table
    return str(macro(["a", "b"], rows))


def test_a_value_that_was_not_handed_in_stops_the_page():
    """Break: no `undefined=StrictUndefined`; the page then has an empty heading."""
    with pytest.raises(UndefinedError, match="title"):
        render.page("contents.html", reports=[], sheet=None)


def test_html_is_escaped_in_every_part_of_a_cell():
    for given in (EVIL, Cell(EVIL, sign=EVIL, small=EVIL, below=(EVIL,))):
        html = table_page([[given, given]])
        assert "<script" not in html
        assert html.count("&lt;script&gt;") >= 2
    assert EVIL in render.page("proof.md", **_proof())  # Markdown is no HTML


def _proof() -> dict:
    models = SimpleNamespace(by_model={EVIL: 0.0}, refused=None)
    texts = dict.fromkeys(("question", "headline", "scope"), EVIL)
    proof = SimpleNamespace(
        **texts, seed=0, levels=(), steps=(), symbolic=None, cost=None, models=models
    )
    return {"proof": proof, "tolerance": 1e-9, "limits": [], "costs": []}


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_one_macro_alone_trusts_what_it_is_given(path):
    """The charts' SVG, which matplotlib writes and escapes; and no template turns escaping off."""
    tree = Environment().parse(path.read_text("utf-8"))
    safe = [node for node in tree.find_all(nodes.Filter) if node.name == "safe"]
    assert len(safe) == (path.name == "macros.html")
    assert "autoescape" not in path.read_text("utf-8")


def test_every_page_is_built_on_the_one_base():
    pages = {path.name for path in TEMPLATES.glob("*.html")} - {"page.html", "macros.html"}
    assert pages == {
        "audit.html", "benchmark.html", "contents.html", "explanation.html", "league.html",
        "reproduce.html",
    }  # fmt: skip
    for name in pages:
        assert '{% extends "page.html" %}' in (TEMPLATES / name).read_text("utf-8")


def test_python_writes_no_html():
    """Pages come from templates: an f-string with a tag is where an escape is forgotten."""
    source = TEMPLATES.parents[1]
    tag = re.compile(
        r"</?(p|div|t[dr]|table|h[1-6]|span|b|li|ul|small|figure|img|a href)\b[^|\n]*>"
    )
    found = [
        f"{path.relative_to(source)}: {line.strip()}"
        for path in source.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if tag.search(line)
    ]
    assert found == []


def test_the_wheel_holds_the_templates(tmp_path):
    build = pytest.importorskip("hatchling.builders.wheel")
    root = Path(__file__).parents[2]
    wheel = next(iter(build.WheelBuilder(str(root)).build(directory=str(tmp_path))))
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {Path(name).name for name in names if "/pages/templates/" in name}
    assert shipped == {path.name for path in TEMPLATES.iterdir()}


@pytest.mark.parametrize("package", ["pages", "plots"])
def test_pages_and_plots_import_nothing_that_they_show(package):
    """Break: `from heatproof.explanation import Explanation` in plots/overlay.py."""
    above = r"heatproof(\.| import )(explanation|engine|auditing|benchmarking|proofs|recipes|cli)\b"
    for path in (TEMPLATES.parents[1] / package).glob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) .*", path.read_text("utf-8"), re.M)
        assert not [line for line in imports if re.search(above, line)], path.name
