"""The engine `ray` writes the rows that the local engine writes."""

from pathlib import Path

import pytest
from ray.exceptions import RayError

from heatproof.errors import HeatproofError, InputError
from heatproof.parallel.ray_cluster import reason_of
from heatproof.runs.cluster import RayEngine, actors_from
from heatproof.runs.sources import list_items
from heatproof.store.store import open_store
from many_images import content, model_of, run_into, write_images


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_ray_writes_the_same_rows(tmp_path: Path) -> None:
    """Break: let `PartReader` count batches from the part's own start."""
    images = write_images(tmp_path / "images", 11)
    images[6].write_bytes(b"")
    items = list_items([str(tmp_path / "images")])
    run_into(tmp_path / "local", items)
    engine = RayEngine(model=model_of(), items=items, least=1, most=2)
    result = run_into(tmp_path / "ray", items, engine=engine)
    assert result.failures == 1
    assert len(open_store(tmp_path / "ray").parts()) == 3
    ours, theirs = content(tmp_path / "ray"), content(tmp_path / "local")
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["map"] == pytest.approx(other["map"], abs=1e-6)
    assert run_into(tmp_path / "ray", items, engine=engine).tally.done == 0


def test_the_number_of_actors() -> None:
    assert actors_from("3") == (3, 3)
    assert actors_from("1:8") == (1, 8)
    for text in ("", "0", "8:1", "many", "1:"):
        with pytest.raises(InputError, match="expected a number, or MIN:MAX"):
            actors_from(text)


def test_what_a_task_failed_of_is_one_line() -> None:
    """Break: take the first line of Ray's text, which names the task."""
    error = RayError("task failed\nlong\nZeroDivisionError: x")
    assert reason_of(error) is None  # the cluster's own failure: the run goes round again
    error.__cause__ = ZeroDivisionError("x")
    assert "ZeroDivisionError: x; finished parts" in str(reason_of(error))
    error.__cause__ = InputError("the disk is full")
    assert str(reason_of(error)) == "the disk is full"
    assert type(reason_of(error)) is HeatproofError
