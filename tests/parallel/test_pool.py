"""The benchmark and the audit by one process, several processes and Ray: the same results."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import heatproof
from heatproof.benchmarking.run import BenchmarkProgress
from heatproof.cli import main
from heatproof.errors import HeatproofError, InputError
from heatproof.methods import Foreign
from heatproof.parallel.pool import Pool

ORDER: dict[str, Any] = {"images": 6, "batch_size": 2, "metrics": "pointing,srg:steps=2"}
MINE = """
import numpy as np

def mine(model):
    def call(picture, prompt):
        return np.asarray(picture.convert("L"), dtype=float)
    return call
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Workers take the number of threads; more would only wait for each other here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened() -> Callable[[int], int]:
    return square


def square(number: int) -> int:
    if number == 13:
        raise InputError("13 is refused")
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_each_part_comes_once_with_its_result() -> None:
    """Break: put the result alone into `_Make`."""
    results = list(Pool(workers=2).map(opened, range(5), "cpu"))
    assert sorted(results) == [(number, number * number) for number in range(5)]


def test_a_part_that_fails_and_a_worker_that_dies_are_one_line() -> None:
    with pytest.raises(HeatproofError, match="13 is refused"):
        list(Pool(workers=2).map(opened, [13], "cpu"))
    with pytest.raises(HeatproofError, match=r"died \(exit code -9\).*same command again"):
        list(Pool(workers=2).map(opened, [17], "cpu"))
    with pytest.raises(InputError, match="cannot go to another process"):
        list(Pool(workers=2).map(lambda: square, [1], "cpu"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A benchmark by this process alone."""
    torch.set_num_threads(1)
    return heatproof.benchmark("gae", **ORDER, out=tmp_path_factory.mktemp("whole"))


def test_two_processes_go_on_where_one_was_stopped(whole: Any, tmp_path: Path) -> None:
    """Break: let the workers' task count its seed on instead of taking the chunk's own."""

    def stop(progress: BenchmarkProgress) -> None:
        if progress.done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heatproof.benchmark("gae", **ORDER, out=tmp_path, progress=stop)
    assert len(list((tmp_path / "parts").glob("values-*.parquet"))) == 1
    again = heatproof.benchmark("gae", **ORDER, out=tmp_path, workers=2)
    assert again.values.equals(whole.values)
    assert again.curves.equals(whole.curves)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_ray_measures_the_same_values(whole: Any, tmp_path: Path) -> None:
    """Break: leave the number of threads to Ray, and let `pool.map` yield results alone."""
    ours = heatproof.benchmark("gae", **ORDER, out=tmp_path, engine="ray", workers=2)
    assert ours.values.equals(whole.values)
    assert ours.curves.equals(whole.curves)


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    def again(progress: BenchmarkProgress) -> None:
        if progress.done >= 2:
            heatproof.benchmark("gae", **ORDER, out=tmp_path)

    with pytest.raises(InputError, match="another run"):
        heatproof.benchmark("gae", **ORDER, out=tmp_path, progress=again)


def test_a_function_of_this_session_cannot_go_to_workers(tmp_path: Path) -> None:
    def own(image: Any, prompt: str) -> Any:
        del prompt
        return np.ones(image.size)

    mine = Foreign(own, name="mine")
    with pytest.raises(InputError, match=r"FILE\.py:NAME"):
        heatproof.benchmark(mine, **ORDER, out=tmp_path, workers=2)


def test_audits_by_two_processes_are_those_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break: let the workers leave `principles` out of the auditor's settings."""
    (tmp_path / "own.py").write_text(MINE)
    names = f"gae,rollout,{tmp_path / 'own.py'}:mine"
    found: dict[str, list[dict[str, Any]]] = {}
    for workers in ("1", "2"):
        out = tmp_path / workers
        given = ["audit", names, "--principle", "1", "--pictures", "20", "-o", str(out)]
        main.run([*given, "--workers", workers])
        found[workers] = [
            json.loads((out / name / "audit.json").read_text())
            for name in ("gae", "rollout", "mine")
        ]
        for audit in found[workers]:
            del audit["seconds"]
    assert found["1"] == found["2"]
    assert "3 methods" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--workers", "0"], "at least 1"),
        (["--engine", "spark"], "'local' or 'ray'"),
        (["--address", "auto"], "it is for the engine ray"),
    ],
)
@pytest.mark.parametrize("command", [["benchmark"], ["audit", "gae"]])
def test_wrong_pools_are_one_line(
    command: list[str], given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*command, *given]) == 2
    (line,) = [e for e in capsys.readouterr().err.splitlines() if e.startswith("heatproof:")]
    assert told in line
