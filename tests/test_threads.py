"""Threads that share a model: each one's explanations are those of a serial run, and a pass that
is not explained is left alone. A web app does just this."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import heatproof
import tiny
from families import ids, picture, worded
from heatproof import methods
from heatproof.models import Model
from test_methods import NAMES, QUICK, sides, texts

THREADS = 4


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """Threads take turns after some ten operations of Python, not after thousands."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """What the jobs give, each in a thread of its own, begun together."""
    barrier = threading.Barrier(len(jobs), timeout=60)

    def started(job: Callable[[], Any]) -> Any:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(started, job) for job in jobs]]


def explained(model: Model, name: str, side: str, number: int) -> list[Tensor]:
    """Maps, scores and verdict of one thread's own inputs."""
    method = methods.create(name, **QUICK.get(name, {}))
    pixels, prompts = picture(model, 2) + number, texts()
    if side == "image":
        found = heatproof.explain(model, pixels, prompts, method=method)
        maps = [found.maps]
    else:
        found = heatproof.explain_words(model, pixels, ids() , method=method)
        maps = [each for row in found.maps for each in row]
    return [*maps, found.scores, torch.tensor(found.certificate.holds)]


CASES = [(name, side) for name in NAMES for side in sides(name)]


@pytest.mark.parametrize(("name", "side"), CASES)
def test_the_same_method_in_four_threads_is_the_serial_one(name, side) -> None:
    model = worded(tiny.open_clip_vit())
    jobs = [lambda n=n: explained(model, name, side, n) for n in range(THREADS)]
    expected = [job() for job in jobs]
    for _ in range(2):
        for found, own in zip(at_once(*jobs), expected, strict=True):
            for one, other in zip(found, own, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
