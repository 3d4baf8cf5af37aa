"""Many images into a store: nothing is lost, nothing twice, whatever interrupts the run."""

import json
import queue
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import heatproof
from heatproof.errors import HeatproofError, InputError, Interrupted
from heatproof.images import open_image
from heatproof.methods import create
from heatproof.parallel import processes
from heatproof.runs import local
from heatproof.runs.job import PromptPlan
from heatproof.runs.local import LocalEngine
from heatproof.runs.run import batch_size_for
from heatproof.store.files import StoreFiles
from heatproof.store.lock import locked
from heatproof.store.store import open_store
from many_images import PROMPTS, content, model_of, run_into, write_images

COUNT = 13


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, three of which cannot be read, and one that is there twice."""
    folder = tmp_path_factory.mktemp("images")
    paths = write_images(folder, COUNT)
    paths[1].write_bytes(b"")
    paths[6].write_bytes(paths[6].read_bytes()[:200])
    paths[12].write_text("not an image")
    paths[4].write_bytes(paths[3].read_bytes())
    return folder


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing interrupted."""
    store = tmp_path_factory.mktemp("whole") / "store"
    run_into(store, [images])
    return store


@pytest.fixture(scope="module")
def certified(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the certificate of every second batch."""
    store = tmp_path_factory.mktemp("certified") / "store"
    run_into(store, [images], certified=2)
    return store


class Killed(BaseException):
    """Ends a run in the middle, as a kill would, without any clean-up of the run's own."""


def after(parts: int) -> Any:
    """Return a callback that kills the run after so many parts."""
    calls = iter(range(1000))

    def tell(_: Any) -> None:
        if next(calls) == parts:
            raise Killed

    return tell


def test_rows_are_what_explain_gives(images: Path, whole: Path) -> None:
    """Break: count a failed image's place away in `ImageLoader.load`."""
    store = open_store(whole)
    readable = [n for n in range(COUNT) if n not in (1, 6, 12)]
    assert len(store) == len(readable) * len(PROMPTS)
    paths = [images / f"{n:03d}.png" for n in readable]
    direct = heatproof.explain(model_of(), paths, list(PROMPTS), certify=False)
    for place, number in enumerate(readable):
        rows = store[f"{number:03d}.png"]
        assert [row.prompt for row in rows] == list(PROMPTS)
        for prompt, row in enumerate(rows):
            torch.testing.assert_close(torch.from_numpy(row.map), direct.maps[place, prompt])
            assert row.score == pytest.approx(float(direct.scores[place, prompt]), abs=1e-5)
            assert row.holds is None
            assert row.fields["width"] == open_image(images / f"{number:03d}.png").image.width


def test_what_cannot_be_read_is_a_row_of_failures(whole: Path) -> None:
    failures = open_store(whole).failures().to_pylist()
    assert [(row["index"], row["id"]) for row in failures] == [
        (1, "001.png"), (6, "006.png"), (12, "012.png"),
    ]  # fmt: skip
    assert "zero bytes" in failures[0]["reason"]
    assert "cut short" in failures[1]["reason"]
    assert "text file" in failures[2]["reason"]


def test_the_same_image_under_two_ids_is_two_rows(whole: Path) -> None:
    store = open_store(whole)
    first, second = store["003.png"][0], store["004.png"][0]
    assert first.fields["content_sha256"] == second.fields["content_sha256"]
    np.testing.assert_allclose(first.map, second.map, atol=1e-6)


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_killed_run_goes_on_to_the_same_rows(
    images: Path, whole: Path, tmp_path: Path, parts: int
) -> None:
    """Break: let `Worker.explain` count images on instead of taking the batch's own number."""
    store = tmp_path / "store"
    with pytest.raises(Killed):
        run_into(store, [images], tell=after(parts))
    assert not open_store(store).complete
    result = run_into(store, [images])
    assert result.tally.before == 4 * parts
    assert content(store) == content(whole)


def test_chance_depends_on_the_place_in_the_list_alone(images: Path, tmp_path: Path) -> None:
    """Break: leave `run.done = first` out of `ExplainRun.asking`: every batch draws the same."""
    random: Any = {"methods": (("random", {}), ("attention-x-gradient", {}))}
    run_into(tmp_path / "whole", [images], **random)
    with pytest.raises(Killed):
        run_into(tmp_path / "store", [images], tell=after(2), **random)
    run_into(tmp_path / "store", [images], **random)
    rows = content(tmp_path / "store")
    assert rows == content(tmp_path / "whole")
    assert [row["method"] for row in rows[:4]] == ["random"] * 2 + ["attention-x-gradient"] * 2
    drawn = [str(row["map"]) for row in rows if row["method"] == "random"]
    assert len(set(drawn[::2])) == COUNT - 3


def test_nothing_is_done_twice(images: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")}
    result = run_into(whole, [images])
    assert result.tally.done == 0
    assert result.failures == 3
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")} == before


def test_overlapping_parts_of_an_orphan_are_settled(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    """A worker that outlived its run may write a part that overlaps others.

    Break: leave `overlapping` out of `Store.parts`.
    """
    store, other = tmp_path / "store", tmp_path / "other"
    with pytest.raises(Killed):
        run_into(store, [images], tell=after(1))
    run_into(other, [images], part_items=8)
    name = "maps/000000000000-000000000008.parquet"
    (store / name).write_bytes((other / name).read_bytes())
    (store / name.replace("maps", "failures")).write_bytes(
        (other / name.replace("maps", "failures")).read_bytes()
    )
    assert len({(row["id"], row["prompt"]) for row in content(store)}) == len(open_store(store))
    run_into(store, [images])
    assert content(store) == content(whole)
    assert open_store(store).failures().num_rows == 3


def test_leftovers_of_a_kill_are_removed(images: Path, whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(Killed):
        run_into(store, [images], tell=after(1))
    (store / "maps" / ".000000000004-000000000008.parquet.77.tmp").write_bytes(b"half")
    stray = store / "failures" / "000000000008-000000000013.parquet"
    stray.write_bytes((whole / "failures" / "000000000012-000000000013.parquet").read_bytes())
    run_into(store, [images])
    assert content(store) == content(whole)
    assert open_store(store).failures().num_rows == 3
    assert not list(store.rglob(".*.tmp"))


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompts": PromptPlan(shared=(*PROMPTS, "a cat"))}, "prompts: a cat is new"),
        ({"prompts": PromptPlan(shared=PROMPTS[::-1])}, "prompts: another order"),
        ({"spec": "scenes:step-00200"}, "model: scenes then, scenes:step-00200 now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"map_type": "float16"}, "map type: float32 then, float16 now"),
        ({"batch_size": 5}, "batch size: 4 then, 5 now"),
        ({"methods": (("gae", {}),)}, "methods"),
        ({"certified": 1}, "certified: 0 then, 1 now"),
    ],
)
def test_another_run_is_refused_and_told_what_changed(
    images: Path, whole: Path, change: dict[str, Any], said: str
) -> None:
    """Break: take an entry out of `run` in `plan`."""
    with pytest.raises(InputError, match="was begun with another run") as raised:
        run_into(whole, [images], **change)
    assert said in str(raised.value)


def test_other_images_are_refused_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_images(folder, 3)
    run_into(tmp_path / "store", [folder])
    write_images(folder, 4)
    with pytest.raises(InputError, match=r"3 images then, 4 now, new: 003\.png"):
        run_into(tmp_path / "store", [folder])


def test_another_environment_is_a_notice(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_into(store, [images])
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["environment"]["torch"] = "0.1"
    (store / "manifest.json").write_text(json.dumps(manifest))
    (notice,) = run_into(store, [images]).notices
    assert "torch: 0.1 then" in notice


def test_a_second_run_is_refused_while_one_is_at_it(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with locked(store), pytest.raises(InputError, match="another run"):
        run_into(store, [images])
    run_into(store, [images])


def test_parts_without_a_manifest_are_refused(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_into(store, [images])
    (store / "manifest.json").unlink()
    with pytest.raises(InputError, match="without a manifest"):
        run_into(store, [images])


# --- ends ---------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    images: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break: let `StoreFiles.write` pass the OSError on."""
    store = tmp_path / "store"
    real, calls = Path.write_bytes, iter(range(1000))

    def full(self: Path, data: bytes) -> int:
        if "maps" in self.parts and next(calls) == 1:
            real(self, data[:100])
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="the disk is full; finished parts are there"):
        run_into(store, [images])
    assert not list(store.rglob(".*.tmp"))
    assert open_store(store).parts()
    run_into(store, [images])
    assert content(store) == content(whole)


def test_an_interrupt_ends_after_the_batch_and_keeps_all_of_it(
    images: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break: write nothing when `stopped` is set in `Worker.run`."""
    # A job of a shell's background ignores the signal; the run answers it, and puts that back.
    before = signal.getsignal(signal.SIGINT)
    store = tmp_path / "store"
    real, calls = local.Worker.explain, iter(range(1000))

    def explain(self: Any, batch: Any) -> Any:
        if next(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return real(self, batch)

    monkeypatch.setattr(local.Worker, "explain", explain)
    with pytest.raises(Interrupted, match=r"8 of 13 images.*run the same command again"):
        run_into(store, [images], part_items=512)
    assert signal.getsignal(signal.SIGINT) is before
    assert [tuple(part) for part in open_store(store).parts()] == [(0, 8)]
    run_into(store, [images])
    assert content(store) == content(whole)


def test_parts_are_written_when_they_take_long(images: Path, tmp_path: Path) -> None:
    run_into(tmp_path / "store", [images], part_items=512, part_seconds=0.0)
    assert len(open_store(tmp_path / "store").parts()) == 4


# --- other ways ---------------------------------------------------------------------------------


def test_loader_processes_change_nothing(images: Path, whole: Path, tmp_path: Path) -> None:
    run_into(tmp_path / "store", [images], engine=LocalEngine(devices=("cpu",), loaders=2))
    assert content(tmp_path / "store") == content(whole)


def test_two_processes_write_the_same_rows(images: Path, whole: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    run_into(tmp_path / "store", [images], engine=LocalEngine(devices=("cpu", "cpu")))
    both = zip(content(tmp_path / "store"), content(whole), strict=True)
    for one, other in both:
        assert one["id"] == other["id"]
        if threads == 1:  # fresh processes choose their own number of threads
            assert one == other
        np.testing.assert_allclose(one["map"], other["map"], atol=1e-5)


class Process:
    """Stands for one of the engine's processes."""

    pid = 7

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode


def collect(exitcode: int | None, *results: Any) -> list[Any]:
    waiting: queue.Queue[Any] = queue.Queue()
    for result in results:
        waiting.put(result)
    event = threading.Event()
    return list(processes.collect([Process(exitcode)], waiting, event, event))


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break: leave the look at exit codes out of `collect`."""
    monkeypatch.setattr(processes, "PATIENCE", 0.01)
    assert collect(0, None) == []
    with pytest.raises(HeatproofError, match="no such device"):
        collect(None, HeatproofError("no such device"))
    with pytest.raises(HeatproofError, match=r"process 7 died \(exit code -9\).*again"):
        collect(-9)


class Losing:
    """An engine that loses its machines after every part, and all of them in the end."""

    name = "losing"

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def run(self, job: Any, ranges: Any, stopped: Any) -> Any:
        self.rounds -= 1
        if self.rounds >= 0:
            yield next(
                iter(LocalEngine(devices=("cpu",), model=model_of()).run(job, ranges, stopped))
            )


def test_a_run_goes_round_until_all_is_done(images: Path, whole: Path, tmp_path: Path) -> None:
    """Break: take the first round for the last."""
    with pytest.raises(InputError, match="losing: it ended 3 times without any part"):
        run_into(tmp_path / "store", [images], engine=Losing(2))
    assert len(open_store(tmp_path / "store").parts()) == 2
    run_into(tmp_path / "store", [images], engine=Losing(9))
    assert content(tmp_path / "store") == content(whole)


def test_a_remote_store(images: Path, whole: Path) -> None:
    """Object stores have neither locks nor renames."""
    address = "memory://heatproof-tests/store"
    files = StoreFiles(address)
    try:
        run_into(address, [images])
        assert content(address) == content(whole)
        assert run_into(address, [images]).tally.done == 0
    finally:
        files.filesystem.rm(files.root, recursive=True)


def test_half_precision_says_what_rounding_cost(images: Path, whole: Path, tmp_path: Path) -> None:
    run_into(tmp_path / "store", [images], map_type="float16")
    for half, exact in zip(open_store(tmp_path / "store"), open_store(whole), strict=True):
        largest = np.abs(exact.map).max()
        gap = np.abs(half.map - exact.map).max() / largest
        assert half.fields["map_rounding"] == pytest.approx(gap)
        assert exact.fields["map_rounding"] == 0
        assert gap < 2e-3


def test_only_every_second_batch_is_certified(certified: Path, whole: Path) -> None:
    rows = list(open_store(certified))
    for row, other in zip(rows, open_store(whole), strict=True):
        np.testing.assert_allclose(row.map, other.map, atol=1e-6)
        even = row.fields["index"] // 4 % 2 == 0
        assert row.holds is (True if even else None)
        assert row.fields["same_model"] == ("yes" if even else "not established")


def test_errors_are_stored_where_the_method_has_them(images: Path, tmp_path: Path) -> None:
    """Break: write the maps into the column of errors."""
    methods: Any = (("banzhaf", {"samples": 16, "gradient": "none"}), ("random", {}))
    paths = [images / "000.png", images / "002.png"]
    run_into(tmp_path / "store", paths, methods=methods)
    direct = heatproof.explain(
        model_of(), paths, list(PROMPTS), certify=False, method=create("banzhaf", **methods[0][1])
    )
    assert direct.errors is not None
    rows = list(open_store(tmp_path / "store"))
    assert all(row.errors is None for row in rows if row.method == "random")
    own = [row.errors for row in rows if row.method == "banzhaf"]
    np.testing.assert_allclose(np.stack(own), direct.errors.flatten(0, 1), atol=1e-6)


def test_the_log_has_each_part_and_failure(certified: Path) -> None:
    events = [json.loads(line) for line in (certified / "log.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("part") == 4
    assert kinds.count("failure") == 3
    assert (kinds[0], kinds[-1]) == ("start", "done")
    assert sum(event["images"] for event in events if event["event"] == "part") == COUNT - 3


def test_the_default_batch_costs_what_eight_cost_a_large_model() -> None:
    """Break: leave the tower's parameters out of `batch_size_for`."""
    model = model_of()
    assert batch_size_for(model) == 64
    tower = model.module.get_submodule(model.image.path)
    layout = model.image.layout(64, 64)
    cost = layout.rows * layout.cols * sum(own.numel() for own in tower.parameters())
    for times, count in ((64, 64), (63, 32), (16, 16), (15, 8), (1, 8)):
        assert batch_size_for(model, cost=times * cost) == count
