"""`heatproof benchmark` as typed: own entries, what data cannot serve, what goes wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

import heatproof
import tiny_sets
from heatproof.benchmarking.trial import LACKS
from heatproof.cli import main

pytest.importorskip("pyarrow")
SMALL = ["benchmark", "--images", "4", "--batch-size", "2"]
MINE = """
import numpy as np

def mine(picture, prompt):
    grey = np.asarray(picture.convert("L"), dtype=float)
    return abs(grey - np.median(grey))

def made(model):
    return mine

number = 7
"""


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [e for e in capsys.readouterr().err.splitlines() if e.startswith("heatproof:")]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "benchmark.json").read_text())


@pytest.mark.parametrize("name", ["mine", "made"])
def test_an_own_entry_stands_in_the_table(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MINE)
    out, entry = tmp_path / "out", f"{tmp_path / 'own.py'}:{name}"
    given = ["--entry", entry, "--methods", "gae", "--metrics", "pointing", "-o", str(out)]
    assert main.run([*SMALL, *given]) == 0
    (metric,) = summary(out)["metrics"]
    rows = {row["method"] for row in next(iter(metric["tables"].values()))}
    assert rows == {name, "gae", "random", "blurred-random", "center", "edges"}
    for file in ("report.html", "table.md", "table.tex", "values.parquet", "curves.parquet"):
        assert (out / file).stat().st_size > 100
    assert name in (out / "report.html").read_text()


def test_what_is_nothing_to_call_is_said(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "own.py").write_text(MINE)
    assert main.run([*SMALL, "--entry", f"{tmp_path / 'own.py'}:number", "-o", str(tmp_path)]) == 2
    (line,) = said(capsys)
    assert "is of type int; expected a function (image, prompt) -> map" in line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--data", "voc:/nowhere"], "got no folder /nowhere, expected PASCAL VOC"),
        (["--data", "vco:/nowhere"], "unknown kind of data 'vco'"),
        (["--metrics", "srg:imputer=meen"], "meen"),
        (["--set", "gae.layers=1"], "that method is not in the benchmark"),
        (["-o", "/proc/nowhere"], "cannot be written to"),
    ],
)
def test_what_is_wrong_is_one_line(
    given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [] if "-o" in given else ["-o", str(tmp_path / "out")]
    assert main.run([*SMALL, "--methods", "rollout", *given, *place]) == 2
    (line,) = said(capsys)
    assert told in line


def test_a_metric_that_the_data_cannot_serve_is_left_out_with_its_reason(tmp_path: Path) -> None:
    given = ["--methods", "gae", "--metrics", "pointing,point-iou", "-o", str(tmp_path)]
    assert main.run([*SMALL, *given]) == 0
    found = summary(tmp_path)
    assert [each["name"] for each in found["metrics"]] == ["pointing"]
    assert LACKS["points"] in json.dumps(found["left_out"])


def test_phrases_leave_right_and_wrong_unknown(tmp_path: Path) -> None:
    """RefCOCO names what is there and never says what is not."""
    found = heatproof.benchmark(
        "gae", data=f"refcoco:{tiny_sets.refcoco(tmp_path)}", metrics="pointing", batch_size=2
    )
    (metric,) = found.summary["metrics"]
    assert list(metric["tables"]) == ["unknown"]


def test_a_part_that_the_disk_lost_is_made_again(tmp_path: Path) -> None:
    order: dict[str, Any] = {"images": 4, "batch_size": 2, "metrics": "pointing"}
    whole = heatproof.benchmark("gae", **order, out=tmp_path).values
    part = tmp_path / "parts" / "values-00001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    (tmp_path / "values.parquet").unlink()
    assert heatproof.benchmark("gae", **order, out=tmp_path).values.equals(whole)


def test_ctrl_c_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("heatproof.benchmarking.run.BenchmarkRun._chunk", stopped)
    given = ["--methods", "gae", "--metrics", "pointing", "-o", str(tmp_path)]
    assert main.run([*SMALL, *given]) == 130
    (line,) = said(capsys)
    assert f"finished parts are in {tmp_path / 'parts'}" in line
