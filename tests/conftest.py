"""Which shapes are checked under test: those in signatures of modules and classes.

jaxtyping's import hook wraps every function, with a shape in its signature or without, and closures
anew whenever the function around them runs. That is most of the suite's time and checks little
that the strict type checker does not: here the hook is told to leave them as they are.
"""

import os
import resource
import sys
import typing
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

_every = jaxtyping.jaxtyped


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type):
        return issubclass(hint, jaxtyping.AbstractArray)
    parts = hint if isinstance(hint, list) else typing.get_args(hint)  # a Callable's arguments
    return any(map(_has_shape, parts))


def _resolved(hint: Any, thing: Any) -> Any:
    """Annotations of modules that postpone them are strings."""
    try:
        return eval(hint, vars(sys.modules[thing.__module__])) if isinstance(hint, str) else hint
    except NameError:  # imported for the type checker alone
        return None


def _checked(thing: Any) -> bool:
    if "<locals>" in thing.__qualname__:
        return False
    return any(_has_shape(_resolved(hint, thing)) for hint in thing.__annotations__.values())


def _jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    wrap = _every(typechecker=typechecker)
    return lambda thing: wrap(thing) if _checked(thing) else thing


jaxtyping.jaxtyped = _jaxtyped


# --- make quick, make costs -------------------------------------------------------------------

COSTLY = Path(__file__).with_name("costly.txt")
LIMIT = 0.5
"""CPU seconds of a test, without collection, from which on `--quick` leaves it out."""
HEAD = """# What --quick leaves out, with CPU seconds of one case: `make costs` measures again.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="one case of every test, none costly")
    parser.addoption("--costs", action="store_true", help="one case of every test; find the costly")


def _function(item: pytest.Item) -> str:
    return item.nodeid.split("[")[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one case of every test function that is neither marked slow nor known as costly.

    Which case is decided by the function's name: neighbouring tests then run on different
    families and methods, and the same ones every time.
    """
    quick, costs = config.getoption("--quick"), config.getoption("--costs")
    if not quick and not costs:
        return
    lines = COSTLY.read_text("utf-8").splitlines() if quick else []
    costly = {line.split()[-1] for line in lines if not line.startswith("#")}
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("slow") and _function(item) not in costly:
            cases.setdefault(_function(item), []).append(item)
    chosen = {some[zlib.crc32(name.encode()) % len(some)] for name, some in cases.items()}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def _processor() -> float:
    """CPU seconds of this process and of those that it started and waited for."""
    uses = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


_costs = dict[str, float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    before = _processor()
    result = yield
    _costs[_function(item)] = _processor() - before
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under `--costs` write the list that `--quick` reads."""
    if session.config.getoption("--costs"):
        costly = sorted(name for name, seconds in _costs.items() if seconds > LIMIT)
        lines = [f"{_costs[name]:5.1f} {name}\n" for name in costly]
        COSTLY.write_text("".join([HEAD, *lines]), "utf-8")


@pytest.fixture(scope="module")
def cluster() -> Generator[None]:
    """A small Ray of one machine, whose processes find what the tests import."""
    import ray  # takes seconds, and few tests need it

    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root / "src"), str(root / "tests" / "support")])
    variables = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
        object_store_memory=200 * 2**20, runtime_env={"env_vars": variables},
    )  # fmt: skip
    yield
    ray.shutdown()
