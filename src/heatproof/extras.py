"""Optional dependencies: which command needs which packages, and how to install them.

Imports nothing but the standard library and `errors`, so that the command line can ask at once.
"""

from importlib.util import find_spec

from heatproof.errors import InputError

# The same names as in [project.optional-dependencies] of pyproject.toml.
EXTRAS: dict[str, tuple[str, ...]] = {
    "prove": ("sympy",),
    "benchmark": ("pyarrow", "matplotlib"),
    "report": ("matplotlib",),
    "run": ("pyarrow", "fsspec", "prometheus_client"),
    "ray": ("ray",),
}


class MissingExtra(InputError):
    """A package of an extra is needed and not installed."""


def require(extra: str) -> None:
    """Check that the packages of an extra can be imported. Call it before hours of work.

    Raises:
        MissingExtra: one is missing; the line says which and what to install.
    """
    missing = [package for package in EXTRAS[extra] if find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtra(
            f"{' and '.join(missing)} {verb} needed here and not installed; "
            f'try: pip install "heatproof[{extra}]"'
        )
