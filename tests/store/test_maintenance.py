"""`heatproof store`: info, export, verify, compact."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from heatproof.cli import main
from heatproof.store import maintenance, writer
from heatproof.store.ranges import Range, overlapping, pending, range_of, split
from heatproof.store.schema import as_bytes
from heatproof.store.store import open_store
from many_images import content, run_into, write_images

COUNT = 14


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    images = write_images(folder / "images", COUNT)
    images[5].write_bytes(b"")
    run_into(folder / "store", [folder / "images"], certified=4)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the store, whose images stay where they were."""
    shutil.copytree(made / "store", tmp_path / "store")
    return tmp_path


def heatproof(*words: str | Path) -> int:
    return main.run([str(word) for word in words])


def test_ranges() -> None:
    """Break: keep the shorter of two in `overlapping`, or start at the wrong end in `pending`."""
    a, b, c, d = Range(0, 8), Range(0, 4), Range(4, 8), Range(8, 12)
    assert range_of(a.name) == a
    assert range_of("part-0.parquet") is None
    assert overlapping([b, c, d]) == []
    assert set(overlapping([a, b, c, d])) == {b, c}
    assert overlapping([Range(0, 4), Range(2, 12)]) == [Range(0, 4)]
    assert pending([b, d], 20) == [Range(4, 8), Range(12, 20)]
    assert pending([], 3) == [Range(0, 3)]
    assert pending([Range(0, 3)], 3) == []
    assert split([Range(4, 13)], 8) == [Range(4, 8), Range(8, 13)]


def test_info(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert heatproof("store", "info", made / "store") == 0
    said = capsys.readouterr().out
    for text in ("14 of 14 images", "scenes", "attention-x-gradient", "a red circle",
                 "maps: 26", "failures: 1", "not established: 18"):  # fmt: skip
        assert text in said


def test_a_sound_store_is_verified(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert heatproof("store", "verify", made / "store", "--sources") == 0
    assert "4 parts are sound; 0 images" in capsys.readouterr().out


def damage(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    # A range: statistics in a page header, a few dozen bytes, are read by nobody.
    first = int(len(data) * place)
    data[first : first + 400] = bytes(byte ^ 0xFF for byte in data[first : first + 400])
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("place", [0.05, 0.5, 0.99])
def test_a_damaged_part_is_detected_and_repaired(
    folder: Path, made: Path, capsys: pytest.CaptureFixture[str], place: float
) -> None:
    """Break: let `verify` trust what can be read without an error."""
    store = folder / "store"
    damage(store / "maps" / "000000000008-000000000012.parquet", place)
    assert heatproof("store", "verify", store) == 1
    assert "000000000008-000000000012.parquet" in capsys.readouterr().out
    assert heatproof("store", "verify", store, "--repair") == 1
    assert heatproof("store", "verify", store) == 3
    run_into(store, [made / "images"], certified=4)
    assert content(store) == content(made / "store")


def test_rows_that_are_missing_or_double_are_detected(folder: Path) -> None:
    """Break: leave the count of rows per image out of `verify`."""
    store = folder / "store"
    parts = store / "maps"
    first, second = sorted(parts.iterdir())[:2]
    (store / "failures" / second.name).unlink()
    (problem,) = maintenance.verify(open_store(store))
    assert "image 5 has neither rows nor a failure" in problem.text
    first.write_bytes(second.read_bytes())
    texts = [problem.text for problem in maintenance.verify(open_store(store))]
    assert any("image 4 has the id" in text for text in texts)


def test_a_changed_value_is_detected(folder: Path) -> None:
    """A sound file with other rows: checksums of the file hold.

    Break: leave the comparison of digests out of `verify`.
    """
    store = open_store(folder / "store")
    part = store.parts()[2]
    path = folder / "store" / "maps" / part.name
    rows, facts = pq.read_table(path), maintenance.part_facts(store.files, part)
    place = rows.column_names.index("score")
    changed = rows.set_column(place, "score", pa.nulls(len(rows), pa.float32()))
    path.write_bytes(as_bytes(changed, {"heatproof": json.dumps(facts)}))
    (problem,) = maintenance.verify(store)
    assert "not those that were written" in problem.text


def test_an_image_that_changed_is_named(
    folder: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made / "images" / "003.png"
    before = path.read_bytes()
    Image.new("RGB", (64, 64)).save(path)
    try:
        assert heatproof("store", "verify", folder / "store", "--sources") == 1
        said = capsys.readouterr().out
        assert f"{path}: changed since it was explained" in said
        out = folder / "export"
        assert heatproof("store", "export", folder / "store", "-o", out, "--images", "5") == 0
        assert "003.png: changed since" in capsys.readouterr().err
    finally:
        path.write_bytes(before)


def test_compacting_changes_no_row(folder: Path, made: Path) -> None:
    """Break: leave the failures out of `_merge`."""
    store = folder / "store"
    assert heatproof("store", "compact", store, "--images", "8") == 0
    assert open_store(store).parts() == [Range(0, 8), Range(8, 14)]
    assert content(store) == content(made / "store")
    assert open_store(store).failures().num_rows == 1
    assert heatproof("store", "verify", store) == 0
    assert run_into(store, [made / "images"], certified=4).tally.done == 0
    assert heatproof("store", "compact", store) == 0
    assert open_store(store).parts() == [Range(0, 14)]
    assert content(store) == content(made / "store")


def test_a_kill_while_compacting_loses_and_doubles_nothing(
    folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break: remove the small parts before the merged one is written."""
    store = folder / "store"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for method in ("write", "remove"):
        with monkeypatch.context() as patch:
            patch.setattr(f"heatproof.store.files.StoreFiles.{method}", killed)
            with pytest.raises(KeyboardInterrupt):
                maintenance.compact(open_store(store), 100)
        assert content(store) == content(made / "store")
        assert open_store(store).failures().num_rows == 1
    assert maintenance.compact(open_store(store), 100)[1] == 1
    writer.settle(open_store(store))
    assert content(store) == content(made / "store")


def test_exports(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "export"
    words = ("store", "export", made / "store", "-o", out, "--images", "2")
    assert heatproof(*words, "--where", "prompt=a red circle", "--where", "holds=true") == 0
    assert str(out / "report.html") in capsys.readouterr().out
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["0000-000", "0001-001"]
    about = json.loads((out / "0000-000" / "explanation.json").read_text())
    assert about["prompts"] == ["a red circle"]
    assert about["certificate"]["holds"] is True
    assert (out / "0000-000" / "overlay-0.png").exists()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("prompt", "expected COLUMN=VALUE"),
        ("colour=red", "unknown column 'colour'"),
        ("score=high", "has values of type float"),
        ("prompt=nothing", "no row to draw"),
    ],
)
def test_bad_filters_are_one_line(
    made: Path, tmp_path: Path, where: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("store", "export", made / "store", "-o", tmp_path / "out", "--where", where)
    assert heatproof(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
