"""Types and shapes of what functions are called with, by jaxtyping and beartype, without checking anything twice."""

from __future__ import annotations

import inspect
from collections import defaultdict
from dataclasses import is_dataclass
from functools import cache, partial, wraps
from threading import get_ident
from types import CellType, FunctionType
from typing import get_args

import jaxtyping
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
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


@cache
def _kind(of):
    """How a value of a type is told from others: by its type alone, its shape, itself, its parts, or not at all."""
    if issubclass(of, (np.ndarray, torch.Tensor)):
        return "shape"
    if issubclass(of, str):
        return "itself"  # one of a few words, where a hint is of words
    if issubclass(of, (tuple, list, dict)):
        return "parts"
    known = (np.generic, torch.nn.Module, pd.DataFrame, pd.Series, sp.spmatrix, sp.sparray)
    holds = hasattr(of, "__iter__") or issubclass(of, type)
    return "type" if issubclass(of, known) or is_dataclass(of) or not holds else "not"


def _look(value):
    """All of a value that a check can see; None where that is not known."""
    of = type(value)
    kind = _kind(of)
    if kind == "type":
        return of
    if kind == "shape":
        return of, value.dtype, value.shape
    if kind == "itself":
        return of, value
    if kind == "not" or len(value) > 16:
        return None
    parts = tuple(map(_look, (*value, *value.values()) if isinstance(value, dict) else value))
    return None if None in parts else (of, parts)


def _checked_once(jaxtyped):
    """`jaxtyped`, but arguments are checked once and not again with the result, and the check of an inner function is made once, not at
    each call of the outer one. What looks like arguments and a result that have passed is not checked again."""
    of_text, with_arrays, calling, passed = {}, {}, defaultdict(list), defaultdict(dict)

    def checked(function=None, *, typechecker):
        if function is None:
            return partial(checked, typechecker=typechecker)
        if not inspect.isfunction(function) or inspect.isgeneratorfunction(function):
            return jaxtyped(function, typechecker=typechecker)
        if "<locals>" in function.__qualname__:
            return _switched(
                function, remembered(function, partial(judged, function, typechecker, function), typechecker)
            )
        check = None

        def at_the_first_call(*args, **options):
            # Most functions of a package are never called by the tests of one process, and a check takes its time to make.
            nonlocal check
            if check is None:
                check = remembered(function, made(function, typechecker), typechecker)
            return check(*args, **options)

        return _switched(function, at_the_first_call)

    def remembered(function, check, typechecker):
        text = function.__module__, function.__code__
        if text not in with_arrays:
            with_arrays[text] = _with_arrays(function)
        if not with_arrays[text]:
            return check
        seen = passed[text]

        def once(*args, **options):
            given = _look((*args, *options, *options.values()))
            results = seen.get(given)
            if given is None or results is None:
                result = check(*args, **options)
                if given is not None and len(seen) < 512:
                    seen[given] = {_look(result)} - {None}
                return result
            result = function(*args, **options)
            if (look := _look(result)) not in results:
                judged(function, typechecker, lambda *_, **__: result, *args, **options)
                if look is not None and len(results) < 512:
                    results.add(look)
            return result

        return once

    def judged(function, typechecker, body, /, *args, **options):
        """Call a body under the check of a function of this text."""
        text = function.__module__, function.__code__
        if text not in of_text:
            of_text[text] = made(any_of_text(function), typechecker)
        waiting = calling[get_ident()]
        before = len(waiting)
        waiting.append(body)
        try:
            return of_text[text](*args, **options)
        finally:
            del waiting[before:]  # where the check refused, nobody has taken it

    def any_of_text(function):
        # Without what this one closes over, which would be held for ever.
        cells = tuple(CellType() for _ in function.__code__.co_freevars)
        bare = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        bare.__kwdefaults__, bare.__annotations__ = function.__kwdefaults__, function.__annotations__
        return wraps(bare)(lambda *args, **options: calling[get_ident()].pop()(*args, **options))

    def made(function, typechecker):
        holds = _with_arrays(function)
        if holds is None:
            return jaxtyped(function, typechecker=typechecker)
        found = typechecker(function)
        return jaxtyped(found, typechecker=None) if holds else found

    return checked


def _with_arrays(function):
    """Whether a function says the shape of something; None where its hints cannot be read."""
    try:
        return any(map(_holds_array, inspect.get_annotations(function, eval_str=True).values()))
    except NameError:  # a name that is there for type checkers alone
        return None


def _switched(function, checked):
    @wraps(function)
    def either(*args, **options):
        return (function if config.jaxtyping_disable else checked)(*args, **options)

    return either
