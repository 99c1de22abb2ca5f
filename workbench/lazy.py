"""Names of a package that are imported when they are first used, so that reading a configuration imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str, **modules: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that lends the names of its modules.

    Parameters
    ----------
    package
        Full name of the package, its ``__name__``.
    **modules
        For each module of it, the names that the package has from there, with spaces between; the module has its own name, too.

    Returns
    -------
    tuple of functions
        The two, for the package to take under these names.

    Raises
    ------
    AttributeError
        By the first function, if the package has no such name; those that it has are listed.

    Examples
    --------
    >>> from workbench.lazy import lazily
    >>> get, names = lazily("workbench", seeds="generator key")
    >>> get("generator").__name__, "key" in names()
    ('generator', True)
    """
    where = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name in where:
            return getattr(import_module(f"{package}.{where[name]}"), name)
        if name in modules:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module '{package}' has no attribute '{name}'; it has {', '.join(where)}")

    return get, lambda: sorted({*vars(sys.modules[package]), *where, *modules})
