"""One style for all charts; matplotlib is imported when one is drawn, and its absence is said."""

import sys

import pytest

import heatproof
from heatproof.extras import MissingExtra
from heatproof.plots import chart
from heatproof.plots.style import chart_style
from heatproof.recipes.grad_eclip_paper.reproducing import ReproduceRequest, run


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r'pip install "heatproof\[report\]"'), chart_style():
        pass


def test_its_absence_is_told_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra):
        heatproof.benchmark("gae", "no-such-model:x", out=tmp_path / "b")
    with pytest.raises(MissingExtra):
        run(ReproduceRequest(model="no-such-model:x"), tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_changes_hold_inside_alone():
    import matplotlib as mpl

    before = mpl.rcParams["font.size"]
    with chart_style(font__size=3):
        assert mpl.rcParams["font.size"] == 3
        assert mpl.rcParams["axes.spines.top"] is False
    assert mpl.rcParams["font.size"] == before


def test_a_label_is_the_charts_title_and_escaped():
    with chart_style():
        figure, _ = chart.new_chart(1)
    svg = chart.svg(figure, "x", "a <b> & c")
    assert "<title>a &lt;b&gt; &amp; c</title>" in svg
    assert svg.startswith('<svg role="img"')
    assert "<metadata" not in svg
