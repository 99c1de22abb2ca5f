"""Seconds and memory of a piece of work, beside whatever the process holds already."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

_EVERY = 0.01


@dataclass
class Cost:
    """What work took.

    Attributes
    ----------
    seconds
        Wall clock.
    peak_bytes
        Most resident memory while it went on, above what there was at its beginning.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure what is done inside; memory is looked at every ten milliseconds."""
    cost, process, done = Cost(), psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(_EVERY):
            cost.peak_bytes = max(cost.peak_bytes, process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - began
        done.set()
        watcher.join()
        cost.peak_bytes = max(cost.peak_bytes, process.memory_info().rss - before)
