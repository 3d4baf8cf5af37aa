"""Hold the audit's checks, one per file: question, measurement, verdict rule, figure.

Importing this package imports every file in it, so that a new check needs no list.
"""

import importlib
import pkgutil


def import_all() -> None:
    """Import every file of this package, which registers its check."""
    for file in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{file.name}")


import_all()
