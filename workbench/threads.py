"""One BLAS thread for small matrices (more only wait for each other), and threads for many small fits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import numba
from threadpoolctl import ThreadpoolController

Given = TypeVar("Given")
Found = TypeVar("Found")

# What may bring a BLAS or OpenMP of its own when it is imported.
_WITH_THREADS = ("scipy.linalg", "sklearn", "torch", "numba")


@cache
def _controller(imported: tuple[bool, ...]) -> ThreadpoolController:
    # Looking for the libraries takes milliseconds, which is as long as a small fit takes: once for all that is there.
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Context, and decorator, in which BLAS and OpenMP use one thread."""
    with _controller(tuple(name in sys.modules for name in _WITH_THREADS)).limit(limits=1):
        yield


def threaded(work: Callable[[Given], Found], tasks: Iterable[Given], most: int | None = None) -> list[Found]:
    """Results of many small fits, in the order of the tasks, whatever number of threads shares them.

    The number is Numba's: the cores, or what ``NUMBA_NUM_THREADS`` says, which joblib sets for its workers.

    Parameters
    ----------
    work
        From a task to its result; compiled code in it has to let go of Python's lock.
    tasks
        What it is asked for.
    most
        Tasks that memory has room for at a time; where that is one, BLAS has all threads. As many as threads by default.
    """
    if most == 1:
        return [work(task) for task in tasks]
    threads = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    # BLAS is limited around all threads: its limit is one of the whole process. Asking Numba for its threads would start them, and give
    # torch, whose OpenMP is the same library, as many.
    with one_thread(), ThreadPoolExecutor(min(threads, most or threads)) as pool:
        return list(pool.map(work, tasks))


def ahead(parts: Iterable[Found]) -> Iterator[Found]:
    """Parts one after the other, the next of which is made in a thread while one is worked on, such as blocks that are read.

    Parameters
    ----------
    parts
        What makes them; it is gone through once, in one thread, and an error in it is raised here.

    Examples
    --------
    >>> from workbench.threads import ahead
    >>> list(ahead(letter.upper() for letter in "abc"))
    ['A', 'B', 'C']
    """
    left, end = iter(parts), object()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, left, end)
        while (part := waiting.result()) is not end:
            waiting = pool.submit(next, left, end)
            yield part  # type: ignore[misc]
