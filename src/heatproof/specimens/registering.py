"""How a specimen gets its name."""

from collections.abc import Callable

from heatproof.models.model import Model

Build = Callable[..., Model]


def registering(specimens: dict[str, Build]) -> Callable[[str], Callable[[Build], Build]]:
    """Return a decorator that enters a function into `specimens` under a name."""

    def named(name: str) -> Callable[[Build], Build]:
        def entered(build: Build) -> Build:
            specimens[name] = build
            return build

        return entered

    return named
