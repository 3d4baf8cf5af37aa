"""`heatproof run`: arguments, exit codes, what it prints."""

import json
from pathlib import Path

import pytest

from heatproof.cli import main
from heatproof.runs.local import Worker
from heatproof.store.store import open_store
from many_images import write_images


def heatproof(*words: str | Path) -> int:
    return main.run([str(word) for word in words])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 5)
    return tmp_path / "images"


def test_all_is_well(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Break: return 3 where a light has a reservation."""
    words = ("run", images, "-p", "a red circle", "-o", tmp_path / "store")
    assert heatproof(*words, "--metrics", tmp_path / "run.prom") == 0
    said = capsys.readouterr().out
    assert "explained 5 images" in said
    assert "bytes per map" in said
    assert "5 maps of 5 images" in said
    assert "heatproof_run_images 5.0" in (tmp_path / "run.prom").read_text()
    assert heatproof(*words) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_failures_and_what_is_not_certified_are_not_established(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", images, "-p", "a red circle", "-o")
    assert heatproof(*run, tmp_path / "one", "--no-certify", "--images", "2") == 3
    (images / "001.png").write_bytes(b"")
    assert heatproof(*run, tmp_path / "two") == 3
    assert "1 images could not be read, first: " in capsys.readouterr().err
    assert len(open_store(tmp_path / "two")) == 4


def test_a_failing_certificate_is_1(images: Path, tmp_path: Path) -> None:
    words = ("run", images, "-p", "a red circle", "--images", "1", "-o", tmp_path / "store")
    assert heatproof(*words, "--method", "grad-eclip") == 1


def test_ctrl_c_is_130_and_says_how_to_go_on(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "explain", interrupted)
    assert heatproof("run", images, "-p", "a dog", "-o", tmp_path / "store") == 130
    assert "run the same command again" in capsys.readouterr().err


def test_prompts_from_files(images: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square\n")
    (tmp_path / "classes.txt").write_text("red circle\nblue square\ngreen star\n")
    run = ("run", images, "--no-certify", "--images", "2", "-o")
    assert heatproof(*run, tmp_path / "a", "--prompts", tmp_path / "prompts.txt") == 3
    assert [row.prompt for row in open_store(tmp_path / "a")][:2] == [
        "a red circle", "a blue square",
    ]  # fmt: skip
    words = ("--classes", tmp_path / "classes.txt", "--template", "a {}", "--top", "2")
    assert heatproof(*run, tmp_path / "b", *words) == 3
    rows = list(open_store(tmp_path / "b"))
    assert len(rows) == 4
    assert all(row.prompt.startswith("a ") for row in rows)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["run"]["classes"] == ["a red circle", "a blue square", "a green star"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "got no prompt"),
        (["-p", "a dog", "--classes", "classes.txt"], "give one"),
        (["-p", "a dog", "--engine", "spark"], "'local' or 'ray'"),
        (["-p", "a dog", "--map-type", "int8"], "'float32' or 'float16'"),
        (["-p", "a dog", "--image-size", "keep"], "maps of one size"),
        (["-p", "a dog", "--method", "gaee"], "did you mean"),
        (["-p", "a dog", "--device", "cuda:77"], "cuda"),
        (["-p", "a dog", "--metrics", "none/run.prom"], "none/run.prom"),
        (["--prompts", "none.txt"], "none.txt: cannot be read"),
        (["--classes", "classes.txt", "--template", "a dog"], "expected one with {}"),
        (["-p", "a dog", "--part", "0"], "at least 1"),
        (["-p", "a dog", "--address", "auto"], "it is for the engine ray"),
    ],
)
def test_bad_input_is_one_line(
    images: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.txt").write_text("a dog\n")
    assert heatproof("run", images, *words, "--no-certify") == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1]
    assert len(lines) == 1
