"""A store is read directly by other programs, and by `open_store`."""

from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

import heatproof
from heatproof.errors import InputError, UnknownName
from heatproof.store.store import Store
from many_images import PROMPTS, run_into, write_images

COUNT = 10


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    images = write_images(folder / "images", COUNT)
    images[2].write_bytes(b"")
    manifest = folder / "list.csv"
    lines = [f"{path.name},images/{path.name},{n % 3}" for n, path in enumerate(images)]
    manifest.write_text("id,path,camera\n" + "\n".join(lines) + "\n")
    run_into(folder / "store", [manifest])
    return folder / "store"


@pytest.fixture(scope="module")
def store(address: Path) -> Store:
    return heatproof.open_store(address)


@pytest.fixture(scope="module")
def expected(store: Store) -> list[tuple[str, str, float, np.ndarray]]:
    """What each reader must find."""
    return [(row.id, row.prompt, row.fields["camera"], row.map) for row in store]


def test_pandas(address: Path, expected: list[tuple[str, str, float, np.ndarray]]) -> None:
    """Break: write unfinished files without a dot before their names, and leave one."""
    (address / "maps" / ".000000000000-000000000004.parquet.1.tmp").write_bytes(b"half")
    frame = pd.read_parquet(address / "maps")
    assert len(frame) == len(expected) == (COUNT - 1) * len(PROMPTS)
    for row, (id, prompt, camera, values) in zip(frame.to_dict("records"), expected, strict=True):
        assert (row["id"], row["prompt"], row["camera"]) == (id, prompt, camera)
        shape = (row["grid_rows"], row["grid_cols"])
        np.testing.assert_array_equal(np.asarray(row["map"]).reshape(shape), values)
    assert list(pd.read_parquet(address / "failures")["id"]) == ["002.png"]


def test_polars(address: Path, expected: list[tuple[str, str, float, np.ndarray]]) -> None:
    frame = pl.read_parquet(address / "maps" / "*.parquet").sort("index", "prompt_number")
    assert frame["id"].to_list() == [own[0] for own in expected]
    stacked = np.stack([own[3].reshape(-1) for own in expected])
    np.testing.assert_array_equal(frame["map"].to_numpy(), stacked)


def test_duckdb(address: Path, expected: list[tuple[str, str, float, np.ndarray]]) -> None:
    found = duckdb.sql(
        f"select id, map from '{address}/maps/*.parquet' where prompt = '{PROMPTS[1]}' "
        "order by index"
    ).fetchall()
    own = [each for each in expected if each[1] == PROMPTS[1]]
    assert [id for id, _ in found] == [each[0] for each in own]
    np.testing.assert_array_equal(found[0][1], own[0][3].reshape(-1))


@pytest.mark.filterwarnings("ignore")
def test_datasets(
    address: Path, expected: list[tuple[str, str, float, np.ndarray]], tmp_path: Path
) -> None:
    files = str(address / "maps" / "*.parquet")
    rows = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path))
    assert rows["id"][:] == [own[0] for own in expected]
    np.testing.assert_array_equal(rows[3]["map"], expected[3][3].reshape(-1))


# --- open_store ---------------------------------------------------------------------------------


def test_filters(store: Store) -> None:
    """Break: let a second filter replace the first."""
    one = store.filter(prompt=PROMPTS[0])
    assert len(one) == COUNT - 1
    assert {row.prompt for row in one} == {PROMPTS[0]}
    both = one.filter(camera=[0, 1])
    assert {row.fields["camera"] for row in both} == {0, 1}
    assert len(both) == len(list(both)) == both.table().num_rows
    assert {row.prompt for row in both} == {PROMPTS[0]}
    high = store.filter(ds.field("score") > 0.0)
    assert all(row.score > 0 for row in high)
    assert len(store) == (COUNT - 1) * len(PROMPTS)
    with pytest.raises(UnknownName, match="did you mean prompt"):
        store.filter(promt="a")


def test_rows_by_id(store: Store) -> None:
    rows = store["003.png"]
    assert [row.prompt for row in rows] == list(PROMPTS)
    assert rows[0].map.shape == (8, 8)
    assert rows[0].errors is None
    with pytest.raises(InputError, match=r"no map of an image with the id '002\.png'"):
        store["002.png"]


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store"):
        heatproof.open_store(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="no manifest of a store"):
        heatproof.open_store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 99, "run": {}}')
    with pytest.raises(InputError, match="schema 99"):
        heatproof.open_store(tmp_path)
