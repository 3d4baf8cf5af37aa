"""What a run is pointed at: files, folders, globs, manifests, archives, data sets."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import heatproof
from heatproof.errors import ImageError, InputError
from heatproof.images import open_image
from heatproof.runs.job import PromptPlan
from heatproof.runs.sources import list_items
from heatproof.store.items import Items, fetch, open_item
from heatproof.store.store import open_store
from many_images import content, model_of, run_into, write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, two of them in sub-folders; other files beside them."""
    root = tmp_path / "photos"
    paths = write_images(root, 5)
    (root / "b" / "c").mkdir(parents=True)
    paths[3].rename(root / "b" / "003.png")
    paths[4].rename(root / "b" / "c" / "004.png")
    (root / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    write_images(root / ".hidden", 1)
    return root


def listed(*sources: str | Path, **more: Any) -> Items:
    return list_items([str(source) for source in sources], **more)


def ids(items: Items) -> list[str]:
    return [item.id for item in items[:]]


IDS = ["000.png", "001.png", "002.png", "b/003.png", "b/c/004.png"]


def test_a_folder_is_searched_to_its_depths(folder: Path) -> None:
    """Break: look for images in the folder itself alone."""
    items = listed(folder)
    assert ids(items) == IDS
    assert items[3].path == str(folder / "b" / "003.png")
    assert [item.index for item in items[1:3]] == [1, 2]


def test_ids_do_not_depend_on_where_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    assert ids(listed(tmp_path / "elsewhere")) == IDS
    assert ids(listed(f"{tmp_path / 'elsewhere'}/")) == IDS


def test_several_sources_keep_apart(folder: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "more", 1)
    items = listed(folder, tmp_path / "more")
    assert ids(items)[::5] == [str(folder / "000.png"), str(tmp_path / "more" / "000.png")]
    with pytest.raises(InputError, match="stands for more than one image"):
        listed(folder, folder)


def test_globs(folder: Path) -> None:
    assert len(listed(folder / "**" / "*.png")) == 5
    assert len(listed(folder / "00[01].png")) == 2
    with pytest.raises(InputError, match="no image in it"):
        listed(folder / "*.webp")


@pytest.mark.parametrize("address", ["file", "memory"])
def test_addresses(folder: Path, address: str) -> None:
    """Any fsspec address: a folder of it, a glob, a file."""
    root = f"file://{folder}" if address == "file" else "memory://sources/photos"
    if address == "memory":
        files = fsspec.filesystem("memory")
        for path in folder.rglob("*.png"):
            if ".hidden" not in path.parts:
                files.pipe(f"/sources/photos/{path.relative_to(folder)}", path.read_bytes())
    items = listed(root)
    assert ids(items) == IDS
    assert fetch(items[3]) == (folder / "b" / "003.png").read_bytes()
    if address == "memory":
        assert len(listed(f"{root}/*.png")) == 3
        (one,) = listed(f"{root}/001.png")[:]
        assert fetch(one) == (folder / "001.png").read_bytes()
        with pytest.raises(ImageError, match="cannot be fetched"):
            fetch(listed(f"{root}/none.png")[0])


def write_manifest(folder: Path, ending: str) -> Path:
    rows = [
        {"id": f"{n:03d}", "path": f"00{n}.png", "prompts": ["a dog", f"a {n}"], "camera": n % 2}
        for n in range(3)
    ]
    path = folder / f"list.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [f"{row['id']},{row['path']},a dog,{row['camera']}" for row in rows]
        path.write_text("id,path,prompt,camera\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_manifests(folder: Path, ending: str) -> None:
    """Break: read ids as numbers; look for paths beside the working folder."""
    items = listed(write_manifest(folder, ending))
    assert ids(items) == ["000", "001", "002"]
    assert items[1].path == f"{folder}/001.png"
    assert items[1].prompts == (("a dog",) if ending == "csv" else ("a dog", "a 1"))
    assert items.extras == ["camera"]
    assert fetch(items[2]) == (folder / "002.png").read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,name\n1,a\n", "no column of paths"),
        ("path\n\n", "no image in it"),
        ('path,prompt\na.png,""\n', "no prompt|empty prompt"),
        ("id,path\n1,a.png\n1,b.png\n", "the id '1' stands for more than one"),
        ("id,path\n1,a.png,7\n", "cannot be read as a table"),
    ],
)
def test_bad_manifests_are_one_line(folder: Path, text: str, said: str) -> None:
    path = folder / "list.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        listed(path)


def write_shard(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            about = json.dumps({"caption": f"a {number}", "year": 2000 + number}).encode()
            image = (folder / f"00{number}.png").read_bytes()
            for ending, data in ((".png", image), (".json", about), (".txt", b"a dog")):
                member = tarfile.TarInfo(f"part/00{number}{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def test_tar_shards(folder: Path, tmp_path: Path) -> None:
    """Break: note the offset of the member's header instead of its data's."""
    write_shard(folder, tmp_path / "s-0.tar")
    write_shard(folder, tmp_path / "s-1.tar")
    items = listed(tmp_path / "s-*.tar", prompt_column="caption")
    assert ids(items)[2:4] == ["s-0.tar/part/002", "s-1.tar/part/000"]
    for place, item in enumerate(items[:]):
        assert fetch(item) == (folder / f"00{place % 3}.png").read_bytes()
        assert item.prompts == (f"a {place % 3}",)
    assert items.extras == ["year", "txt"]
    with pytest.raises(InputError, match="no text 'title'"):
        listed(tmp_path / "s-0.tar", prompt_column="title")
    cut = (tmp_path / "s-0.tar").read_bytes()
    (tmp_path / "s-0.tar").write_bytes(cut[:2000])
    with pytest.raises(ImageError, match="cut short"):
        fetch(items[2])
    (tmp_path / "s-2.tar").write_bytes(b"no tar")
    with pytest.raises(InputError, match="cannot be read as a tar"):
        listed(tmp_path / "s-2.tar")


@pytest.mark.filterwarnings("ignore")
def test_saved_data_sets(folder: Path, tmp_path: Path) -> None:
    pictures = [open_image(folder / f"00{n}.png").image for n in range(3)]
    rows = {"image": pictures, "text": ["a dog", "a cat", "a car"], "year": [1, 2, 3]}
    plain = {name: datasets.Value(kind) for name, kind in (("text", "string"), ("year", "int64"))}
    kinds = datasets.Features({"image": datasets.Image(), **plain})
    saved = datasets.Dataset.from_dict(rows, features=kinds)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "splits")
    items = listed(tmp_path / "one", prompt_column="text")
    assert ids(items) == ["0", "1", "2"]
    assert [item.prompts for item in items[:]] == [("a dog",), ("a cat",), ("a car",)]
    assert items.extras == ["year"]
    np.testing.assert_array_equal(np.asarray(open_item(items[1]).image), np.asarray(pictures[1]))
    assert ids(listed(tmp_path / "splits")) == ["train/0", "train/1", "train/2"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("none", "no such file or folder"), ("photos/notes.txt", "not an image by its name"),
     ("none.csv", "no such file"), ("empty", "no image in it"), ("a.tar.gz", "no such file")],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_what_is_no_source(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=said):
        listed(tmp_path / name)


# --- prompts ------------------------------------------------------------------------------------


def maps(store: Path) -> dict[tuple[str, str], Any]:
    return {(row.id, row.prompt): row for row in open_store(store)}


@pytest.mark.parametrize("method", ["attention-x-gradient", "gae"])
def test_each_image_may_have_its_own_prompts(folder: Path, tmp_path: Path, method: str) -> None:
    """The map is that of the image and prompt alone, whoever else is in the batch.

    Break: store all prompts of the batch; number the prompts of `wanted` from the batch's start.
    """
    lines = ["000.png,a red circle", "001.png,a blue square", "002.png,a red circle"]
    (folder / "list.csv").write_text("path,prompt\n" + "\n".join(lines) + "\n")
    methods = ((method, {}),)
    run_into(tmp_path / "own", [folder / "list.csv"], methods=methods, prompts=PromptPlan())
    run_into(tmp_path / "all", [folder / "00*.png"], methods=methods)
    own, every = maps(tmp_path / "own"), maps(tmp_path / "all")
    assert [f"{id},{prompt}" for id, prompt in own] == lines
    for (id, prompt), row in own.items():
        other = every[f"{folder}/{id}", prompt]
        np.testing.assert_allclose(row.map, other.map, atol=1e-6)
        assert row.score == pytest.approx(other.score, abs=1e-5)
        assert row.fields["prompt_number"] == 0


def test_a_margin_is_between_an_images_own_prompts(folder: Path, tmp_path: Path) -> None:
    """Break: explain images with different prompts together whatever the score."""
    texts = ["a red circle", "a blue square", "a green star", "a yellow heart"]
    cosines = heatproof.explain(model_of(), folder / "000.png", texts, certify=False).scores[0]
    *low, second, first = sorted(texts, key=dict(zip(texts, cosines, strict=True)).__getitem__)
    # What the other image is asked for would be the rival of both.
    rows = [
        {"path": "000.png", "prompts": low},
        {"path": "001.png", "prompts": [first, second]},
    ]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run_into(tmp_path / "own", [folder / "list.jsonl"], score="margin", prompts=PromptPlan())
    shared = PromptPlan(shared=tuple(low))
    run_into(tmp_path / "one", [folder / "000.png"], score="margin", prompts=shared)
    one, own = maps(tmp_path / "one"), maps(tmp_path / "own")
    for prompt in low:
        row, expected = own["000.png", prompt], one[f"{folder}/000.png", prompt]
        assert row.score == pytest.approx(expected.score, abs=1e-5)
        np.testing.assert_allclose(row.map, expected.map, atol=1e-6)


def test_classes_are_those_that_the_model_predicts(folder: Path, tmp_path: Path) -> None:
    """Break: take the lowest scores, or number the classes from the batch's own."""
    classes = ("a red circle", "a blue square", "a green star", "a yellow heart")
    run_into(tmp_path / "all", [folder], prompts=PromptPlan(shared=classes))
    run_into(tmp_path / "top", [folder], prompts=PromptPlan(classes=classes, top=2))
    every = maps(tmp_path / "all")
    rows = list(open_store(tmp_path / "top"))
    assert len(rows) == 5 * 2
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        scores = sorted((every[first.id, name].score for name in classes), reverse=True)
        assert [first.score, second.score] == pytest.approx(scores[:2], abs=1e-5)
        np.testing.assert_allclose(first.map, every[first.id, first.prompt].map, atol=1e-6)


def test_extra_columns_are_carried_along(folder: Path, tmp_path: Path) -> None:
    manifest = write_manifest(folder, "parquet")
    run_into(tmp_path / "store", [manifest], prompts=PromptPlan())
    assert [row["camera"] for row in content(tmp_path / "store")] == [0, 0, 1, 1, 0, 0]
    table = pq.read_table(manifest)
    pq.write_table(table.rename_columns(["id", "path", "prompts", "score"]), manifest)
    with pytest.raises(InputError, match="'score', which is a name of the store's own"):
        run_into(tmp_path / "other", [manifest], prompts=PromptPlan())


def test_a_classifier_takes_class_names(folder: Path, tmp_path: Path) -> None:
    spec = "specimen:timm vit"
    names = model_of(spec).classes[:3]
    run_into(tmp_path / "store", [folder], spec=spec, prompts=PromptPlan(classes=names, top=1))
    rows = content(tmp_path / "store")
    assert len(rows) == 5
    assert {row["prompt"] for row in rows} <= set(names)
