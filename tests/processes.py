"""Other processes for tests.

They come from a server without threads: a fork of the process that runs the tests would inherit whatever lock a thread of
torch or of a reader of tables held at that moment, and wait for it for ever.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

AVAILABLE = "forkserver" in multiprocessing.get_all_start_methods()
needs_processes = pytest.mark.skipif(not AVAILABLE, reason="needs a fork server")


def context() -> Any:
    """Of multiprocessing; what the processes need was imported by their server, once."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(
        ["pytest", "pandas", "pyarrow.parquet", "workbench.engine.sweep", "workbench.capture", "helpers"]
    )
    return made


def start(what: Callable[..., Any], *args: Any) -> BaseProcess:
    """A process that does it; both have to be importable or picklable, so no closures."""
    process = context().Process(target=what, args=args)
    process.start()
    return process
