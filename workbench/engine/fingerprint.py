"""What an object of a user's own class depends on: the code that it runs and what it holds, as data; nothing is pickled."""

from __future__ import annotations

import dis
import importlib
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from workbench.engine.code import hash_of
from workbench.files import digest, hash_file

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)


class UnknownError(Exception):
    """An object of which it cannot be known whether it is the same as another one."""


def fingerprint(value: Any) -> str:
    """Hash of an object: of the code of its class as it is loaded, of what that code calls, and of what it holds.

    Of code in installed packages the name and the version of the package count; of all other code the compiled functions, so
    that one defined in a notebook or at a prompt is known as well. Comments and line numbers do not count.

    Parameters
    ----------
    value
        Any object, such as an estimator that is not fitted.

    Raises
    ------
    UnknownError
        If something in it cannot be told apart from another of its kind, such as an open file.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from workbench.engine.fingerprint import fingerprint
    >>> fingerprint(PCA(3)) == fingerprint(PCA(3)), fingerprint(PCA(3)) == fingerprint(PCA(4))
    (True, False)
    """
    try:
        return digest(_told(value, {}))
    # Whatever is in the way: what is not known to be the same is taken for another.
    except Exception as error:
        raise UnknownError(
            f"{error}" if isinstance(error, UnknownError) else f"{type(error).__name__}: {error}"
        ) from error


def _told(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    """JSON-ready description; what was met before is told by its number."""
    if isinstance(value, _SIMPLE):
        return [type(value).__name__, repr(value)]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return ["array", digest(value)]
    if id(value) in seen:
        return ["again", seen[id(value)][0]]
    # Held, so that its id is nobody else's as long as this lasts.
    seen[id(value)] = (len(seen), value)
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_told(one, seen) for one in value)]
    if isinstance(value, set | frozenset):
        return ["set", *sorted(digest(_told(one, dict(seen))) for one in value)]
    if isinstance(value, Mapping) and type(value) is dict:
        return ["dict", *([_told(key, seen), _told(one, seen)] for key, one in value.items())]
    if isinstance(value, CodeType):
        # What is in a set literal is in another order in each process.
        return [
            "code",
            value.co_code.hex(),
            list(value.co_names),
            list(value.co_varnames),
            _told(value.co_consts, seen),
        ]
    if isinstance(value, ModuleType):
        return _module(value)
    if isinstance(value, type | FunctionType | BuiltinFunctionType) and (module := _module_of(value)) is not None:
        if (installed := _installed(module)) is not None:
            return [module, value.__qualname__, installed]
        return _class(value, seen) if isinstance(value, type) else _function(value, seen)
    if isinstance(value, property | staticmethod | classmethod):
        parts = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value.__func__,)
        return [type(value).__name__, *(_told(part, seen) for part in parts)]
    # The protocol that says what an object is made of, whether it is then pickled or not.
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return ["name", type(value).__name__, reduced]
    made, arguments, state, *items = (*reduced, None)[: max(3, len(reduced))]
    held = [list(one) if isinstance(one, Iterator) else one for one in items]
    return ["object", *(_told(part, seen) for part in (type(value), made, arguments, state, *held))]


def _class(kind: type, seen: dict[int, tuple[int, Any]]) -> Any:
    said = {
        name: _told(part, seen)
        for name, part in sorted(vars(kind).items())
        # Of names that Python keeps for itself only methods are the class's own.
        if not (name.startswith(("__", "_abc_")) and not isinstance(part, FunctionType | staticmethod | classmethod))
    }
    return ["class", kind.__qualname__, [_told(base, seen) for base in kind.__bases__], said]


def _function(function: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    if not isinstance(function, FunctionType):
        raise UnknownError(f"'{function.__qualname__}' is compiled, and of no installed package")
    outside = function.__globals__
    used = {name: _told(outside[name], seen) for name in sorted(set(_globals(function.__code__))) if name in outside}
    modules = [_imported(name) for name in sorted(set(_globals(function.__code__, "IMPORT_NAME")))]
    cells = [_told(cell.cell_contents, seen) for cell in function.__closure__ or ()]
    defaults = _told([function.__defaults__, function.__kwdefaults__], seen)
    return ["function", function.__qualname__, _told(function.__code__, seen), used, modules, cells, defaults]


def _globals(code: CodeType, *operations: str) -> Iterator[str]:
    """Names that code and the functions inside it look up outside, or modules that they import."""
    for one in dis.get_instructions(code):
        if one.opname in (operations or ("LOAD_GLOBAL", "LOAD_NAME")):
            yield one.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _globals(inner, *operations)


def _imported(name: str) -> Any:
    try:
        return _module(importlib.import_module(name))
    except ImportError:
        return ["absent", name]


def _module(module: ModuleType) -> Any:
    name = module.__name__
    if (installed := _installed(name)) is not None:
        return [name, installed]
    if not getattr(module, "__file__", None):
        raise UnknownError(f"the module '{name}' has no file")
    return [name, hash_file(Path(str(module.__file__)))]


def _module_of(value: Any) -> str | None:
    # A builtin method, such as the append of a list, is of no module but of its object.
    if isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, ModuleType | type | None):
        return None
    return str(value.__module__ or "builtins")


@cache
def _installed(name: str) -> str | None:
    """What stands for code that comes with Python or with an installed package; None for other code."""
    if name.partition(".")[0] == "workbench":
        return hash_of([name])
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name == "__main__" or module is None:
        return None
    top = sys.modules.get(name.partition(".")[0])
    said = f"{getattr(top, '__version__', '')} of {sysconfig.get_python_version()}"
    if file is None:
        return said
    folders = [sysconfig.get_path(which) for which in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    return said if any(Path(file).is_relative_to(folder) for folder in folders) else None
