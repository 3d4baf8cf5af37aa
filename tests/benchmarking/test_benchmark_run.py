"""`heatproof benchmark`: resumed, refused, planted, split; the docs' own snippet."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import heatproof
from heatproof.benchmarking import figures, summary_text, text_tables
from heatproof.benchmarking.run import BenchmarkProgress
from heatproof.benchmarking.tables import Values, comparisons, ranked, verdict
from heatproof.cli import main
from heatproof.errors import InputError
from heatproof.statistics import Interval

pytest.importorskip("pyarrow")
ORDER: dict[str, Any] = {"images": 6, "batch_size": 2, "metrics": "pointing,srg:steps=2"}


class Stopped(Exception):
    pass


def test_killed_and_resumed_is_as_uninterrupted(tmp_path: Path) -> None:
    whole = heatproof.benchmark("gae", **ORDER, out=tmp_path / "whole")

    def stop(progress: BenchmarkProgress) -> None:
        if progress.done >= 4:
            raise Stopped

    with pytest.raises(Stopped):
        heatproof.benchmark("gae", **ORDER, out=tmp_path / "part", progress=stop)
    assert len(list((tmp_path / "part" / "parts").glob("values-*.parquet"))) == 2
    again = heatproof.benchmark("gae", **ORDER, out=tmp_path / "part")
    assert again.values.equals(whole.values)
    assert again.curves.equals(whole.curves)
    with pytest.raises(InputError, match="holds another benchmark"):
        heatproof.benchmark("gae", **{**ORDER, "images": 4}, out=tmp_path / "part")
    methods = {row["method"] for row in again.table("pointing")}
    assert methods == {"gae", "random", "blurred-random", "center", "edges"}
    rows = (tmp_path / "part" / "table.md").read_text().splitlines()
    assert all(line.endswith("|") for line in rows if line.startswith("|"))
    tex = (tmp_path / "part" / "table.tex").read_text()
    page = (tmp_path / "part" / "report.html").read_text()
    # Six pictures bear no claim, and every file says how many comparisons its marks rest on.
    for text in ("\n".join(rows), tex, page):
        assert "Comparisons: 0 with the controls" in text
        assert "too few for marks (at least 10)" in text
    assert again.summary["comparisons"]["over_control"] == 0
    assert "▲" not in "".join(line for line in rows if line.startswith("|"))
    assert tex.count("\\begin{longtable}") == tex.count("\\end{longtable}") > 0


def test_planted_differences_are_known_and_answers_kept_apart() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(40, generator=generator, dtype=torch.float64)
    columns = torch.stack([noise + 0.5, noise, noise], 1)
    answers = torch.tensor([1, 0] * 20, dtype=torch.int8)
    columns[answers == 0, 0] -= 1
    values = Values(("mine", "random", "edges"), columns, answers)
    first = ranked(values, "right", "higher")[0]
    assert first.method == "mine"
    assert first.over_control is not None
    assert first.over_control.verdict == "better"
    assert first.over_control.interval.value == pytest.approx(0.5)
    last = ranked(values, "wrong", "higher")[-1]
    assert (last.method, last.over_control and last.over_control.verdict) == ("mine", "worse")
    same = ranked(values, "right", "higher")[2]
    assert same.over_control is not None
    assert same.over_control.verdict == "no difference"


def test_direction_decides_what_is_better() -> None:
    above = Interval(0.2, 0.1, 0.3, 12)
    assert verdict(above, "higher", 0.01) == "better"
    assert verdict(above, "lower", 0.01) == "worse"
    assert verdict(above, "neither", 0.01) == "not ranked"
    assert verdict(Interval(0.2, -0.1, 0.3, 12), "higher", 0.01) == "no difference"
    assert verdict(above, "higher", 0.06) == "no difference"
    assert verdict(Interval(0.2, 0.1, 0.3, 9), "higher", 0.001) == "too few"


CONTROLS = ("random", "blurred-random", "center", "edges")


def drawn(count: int, methods: int, seed: int) -> Values:
    """Values of methods that do not differ, from 0 to 1, with what they share by item."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    own = torch.rand(count, methods + 4, generator=generator, dtype=torch.float64)
    names = (*(f"m{n}" for n in range(methods)), *CONTROLS)
    return Values(names, (shared + own) / 2, torch.ones(count, dtype=torch.int8))


def test_no_mark_stands_on_too_few_pictures() -> None:
    """The percentile bootstrap marks half of the comparisons at two pictures."""
    for count in (2, 3, 5, 8, 9):
        for seed in range(10):
            rows = ranked(drawn(count, 3, seed), "right", "higher", bounds=(0, 1))
            kinds = [each for r in rows for each in (r.over_control, r.over_next, r.over_first)]
            assert {each.verdict for each in kinds if each is not None} == {"too few"}


@pytest.mark.parametrize("count", [10, 30])
def test_where_nothing_differs_few_marks_stand(count: int) -> None:
    """Marks at most in 5 % of comparisons, "next" and "first" in 5 % of tables (200 tables, 6
    methods and 4 controls, with three standard errors); uncorrected, most tables hold one."""
    marks, told, next_ones, firsts = 0, 0, 0, 0
    for seed in range(200):
        rows = ranked(drawn(count, 6, seed), "right", "higher", bounds=(0, 1))
        controlled = [r.over_control for r in rows if r.method not in CONTROLS]
        marks += sum(each is not None and each.verdict != "no difference" for each in controlled)
        told += len(controlled)
        next_ones += any(r.over_next and r.over_next.verdict == "better" for r in rows)
        firsts += any(r.over_first and r.over_first.verdict == "worse" for r in rows)
    assert marks / told <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert next_ones / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert firsts / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_better_means_better_than_every_control() -> None:
    """One control is 0.1 better than the method at every item, the others 0.2 worse."""
    generator = torch.Generator().manual_seed(2)
    noise = 0.01 * torch.rand(20, 5, generator=generator, dtype=torch.float64)
    columns = noise + torch.tensor([0.5, 0.6, 0.3, 0.3, 0.3], dtype=torch.float64)
    values = Values(("mine", *CONTROLS), columns, torch.ones(20, dtype=torch.int8))
    rows = {row.method: row for row in ranked(values, "right", "higher")}
    assert rows["mine"].over_control is not None
    assert (rows["mine"].over_control.against, rows["mine"].over_control.verdict) == (
        "random",
        "worse",
    )
    assert rows["random"].over_control is None
    lifted = columns + torch.tensor([0.2, 0, 0, 0, 0], dtype=torch.float64)
    rows_then = ranked(Values(values.methods, lifted, values.answers), "right", "higher")
    assert rows_then[0].method == "mine"
    assert rows_then[0].over_control is not None
    assert rows_then[0].over_control.verdict == "better"
    assert rows_then[1].over_first is not None
    assert (rows_then[1].over_first.against, rows_then[1].over_first.verdict) == ("mine", "worse")
    assert comparisons([rows_then]) == {"over_control": 4, "over_next": 4, "over_first": 4}


def test_what_was_not_measured_is_called_so_in_every_table() -> None:
    """A method without any value is neither 0 nor an empty cell, and is compared with none."""
    columns = torch.rand(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns[:, 0] = math.nan
    values = Values(("mine", *CONTROLS), columns, torch.ones(12, dtype=torch.int8))
    rows = ranked(values, "right", "higher")
    assert rows[-1].method == "mine"
    metric = {
        "label": "pointing",
        "better": "higher",
        "chance": "",
        "tables": {"right": [row.plain for row in rows]},
    }
    grid = text_tables.detail(metric, "right")
    last = next(row for row in grid.rows if row[0] == "mine")
    assert last == [
        "mine",
        *["not measured", "not measured", ""],
        *["not measured", ""] * 2,
        "0",
        "12",
    ]
    assert "" not in [cell for row in grid.rows for cell in (row[1], row[2], row[4], row[6])]
    assert summary_text.row_of(metric, "right", "mine")["mean"]["value"] is None
    labels = [{"label": name, "control": name != "mine"} for name in values.methods]
    assert "not measured" in figures.means({"methods": labels}, metric, ["right"], "m0")
    assert comparisons([rows])["over_next"] == 3
    assert summary_text.interval({"value": 0.5, "low": None, "high": None}) == "0.500 [no interval]"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--methods", "gea"], "unknown method 'gea'"),
        (["--metrics", "srgg"], "unknown metric 'srgg'"),
        (["--images", "0"], "got images=0"),
        (["--entry", "nowhere.py:mine"], "no such file"),
        (["--model", "scnes"], "scnes"),
    ],
)
def test_bad_input_is_one_line(
    given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(["benchmark", *given, "-o", str(tmp_path / "out")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heatproof:")]
    assert code == 2
    assert len(lines) == 1
    assert told in lines[0]


def test_controls_alone_are_compared_too(tmp_path: Path) -> None:
    order = {**ORDER, "images": 2}
    found = heatproof.benchmark("random", **order, out=tmp_path)
    assert "random" in found.values["method"].to_pylist()


def test_the_documented_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text()
    exec(re.findall(r"```python\n(.*?)```", text, re.S)[0], {})
    assert "mine" in capsys.readouterr().out
