"""`heatproof benchmark`: resumed, refused, planted, split; the docs' own snippet."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import heatproof
from heatproof import cli
from heatproof.benchmarking.measuring import Progress
from heatproof.benchmarking.tables import Values, intervals_of, kendall, ranked, verdict
from heatproof.errors import InputError
from heatproof.metrics import intervals

pytest.importorskip("pyarrow")
ORDER: dict[str, Any] = {"images": 6, "batch_size": 2, "metrics": "pointing,srg:steps=2"}


class Stopped(Exception):
    pass


def test_killed_and_resumed_is_as_uninterrupted(tmp_path: Path) -> None:
    whole = heatproof.benchmark("gae", **ORDER, out=tmp_path / "whole")

    def stop(progress: Progress) -> None:
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


def test_intervals_are_those_of_one_column_alone() -> None:
    columns = torch.rand(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns[4, 1] = math.nan
    for n, found in enumerate(intervals_of(columns)):
        alone = intervals.mean(columns[:, n])
        assert found.count == alone.count
        assert found.low == pytest.approx(alone.low, abs=1e-12)
        assert found.high == pytest.approx(alone.high, abs=1e-12)


def test_kendall_of_known_orders() -> None:
    x = torch.arange(5, dtype=torch.float64)
    assert float(kendall(x, x)) == pytest.approx(1)
    assert float(kendall(x, -x)) == pytest.approx(-1)
    assert float(kendall(x, torch.zeros_like(x))) == 0


def test_direction_decides_what_is_better() -> None:
    above = intervals.Interval(0.2, 0.1, 0.3, 9)
    assert verdict(above, "higher") == "better"
    assert verdict(above, "lower") == "worse"
    assert verdict(above, "neither") == "not ranked"
    assert verdict(intervals.Interval(0.2, -0.1, 0.3, 9), "higher") == "no difference"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--methods", "gea"], "unknown method 'gea'"),
        (["--metrics", "srgg"], "unknown metric 'srgg'"),
        (["--images", "0"], "got 0 for images"),
        (["--entry", "nowhere.py:mine"], "no such file"),
        (["--model", "scnes"], "scnes"),
    ],
)
def test_bad_input_is_one_line(
    given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.run(["benchmark", *given, "-o", str(tmp_path / "out")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heatproof:")]
    assert code == 2
    assert len(lines) == 1
    assert told in lines[0]


def test_the_documented_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / "docs" / "benchmark.md").read_text()
    exec(re.findall(r"```python\n(.*?)```", text, re.S)[0], {})
    assert "mine" in capsys.readouterr().out
