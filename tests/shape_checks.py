"""Types and shapes of what functions are called with, by jaxtyping and beartype, without checking anything twice."""

from __future__ import annotations

import inspect
from collections import defaultdict
from functools import partial, wraps
from threading import get_ident
from types import CellType, FunctionType
from typing import get_args

import jaxtyping
from jaxtyping import config

# By PEP 484 an int will do for a float, as it does for mypy.
_CONF = "beartype.BeartypeConf(is_pep484_tower=True, violation_type=__import__('jaxtyping').TypeCheckError)"


def install(rooms):
    """Check every function of these packages, which must not be imported yet."""
    jaxtyping.jaxtyped = jaxtyping._decorator.jaxtyped = _checked_once(jaxtyping.jaxtyped)
    jaxtyping.install_import_hook(rooms, f"beartype.beartype(conf={_CONF})")


def _holds_array(hint):
    return (inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)) or any(
        map(_holds_array, get_args(hint))
    )


def _checked_once(jaxtyped):
    """`jaxtyped`, but arguments are checked once and not again with the result, and the check of an inner function is made once, not at
    each call of the outer one."""
    of_text, calling = {}, defaultdict(list)

    def checked(function=None, *, typechecker):
        if function is None:
            return partial(checked, typechecker=typechecker)
        if not inspect.isfunction(function) or inspect.isgeneratorfunction(function):
            return jaxtyped(function, typechecker=typechecker)
        if "<locals>" not in function.__qualname__:
            return _switched(function, made(function, typechecker))
        if function.__code__ not in of_text:
            of_text[function.__code__] = made(any_of_text(function), typechecker)
        check = of_text[function.__code__]

        def inner(*args, **options):
            waiting = calling[get_ident()]
            before = len(waiting)
            waiting.append(function)
            try:
                return check(*args, **options)
            finally:
                del waiting[before:]  # where the check refused, nobody has taken it

        return _switched(function, inner)

    def any_of_text(function):
        # Without what this one closes over, which would be held for ever.
        cells = tuple(CellType() for _ in function.__code__.co_freevars)
        bare = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        bare.__kwdefaults__, bare.__annotations__ = function.__kwdefaults__, function.__annotations__
        return wraps(bare)(lambda *args, **options: calling[get_ident()].pop()(*args, **options))

    def made(function, typechecker):
        try:
            hints = inspect.get_annotations(function, eval_str=True).values()
        except NameError:  # a name that is there for type checkers alone
            return jaxtyped(function, typechecker=typechecker)
        found = typechecker(function)
        return jaxtyped(found, typechecker=None) if any(map(_holds_array, hints)) else found

    return checked


def _switched(function, checked):
    @wraps(function)
    def either(*args, **options):
        return (function if config.jaxtyping_disable else checked)(*args, **options)

    return either
