"""`heatproof explain a.jpg DIR/ -p PROMPT`: a handful of images with one index page."""

import json
from pathlib import Path

import pytest

from heatproof.cli import explain_many, main
from many_images import write_images


def heatproof(*words: str | Path) -> int:
    return main.run([str(word) for word in words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos" / "more", 3)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_images_and_folders_have_one_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break: number the reports of each batch from 0."""
    first = write_images(tmp_path, 1, seed=7)[0]
    out = tmp_path / "out"
    assert heatproof("explain", first, folder, "-p", "a red circle", "-o", out) == 0
    page = (out / "report.html").read_text("utf-8")
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["0000-000", "0001-000", "0002-001", "0003-002"]
    for name in folders:
        assert f"{name}/report.html" in page
        about = json.loads((out / name / "explanation.json").read_text())
        assert about["prompts"] == ["a red circle"]
    said = capsys.readouterr().out
    assert said.count("certificate: holds") == 4
    assert "4 of 4 images" in said


def test_an_image_that_cannot_be_read_is_named_and_not_established(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"")
    assert heatproof("explain", folder, "a red circle", "-o", tmp_path / "out") == 3
    said = capsys.readouterr()
    assert "broken.png: zero bytes" in said.err
    assert "3 of 4 images" in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--words"], "no --words, --referee"),
        (["--method", "gae,rollout"], "one method is run"),
    ],
)
def test_what_is_for_one_image_alone(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert heatproof("explain", folder, "-p", "a dog", *words) == 2
    assert said in capsys.readouterr().err


def test_very_many_images_are_for_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(explain_many, "MANY", 2)
    assert heatproof("explain", folder, "-p", "a dog") == 2
    assert "heatproof run SOURCE" in capsys.readouterr().err
