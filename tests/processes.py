"""Other processes for tests.

They come from a server without threads: a fork of the process that runs the tests would inherit whatever lock a thread of
torch or of a reader of tables held at that moment, and wait for it for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
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


def kill_once(ready: Callable[[], bool], command: Sequence[str], seconds: float = 300) -> None:
    """Start a command, and kill it as soon as it has come so far; it must not end before."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + seconds
    try:
        while not ready():
            assert running.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "it did not come so far in time"
            time.sleep(0.005)
    finally:
        running.kill()
        status = running.wait(30)
    assert status == -signal.SIGKILL
