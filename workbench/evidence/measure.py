"""Seconds and memory of a piece of work, and of a method on a split; what goes wrong in a method becomes a sentence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import psutil

from workbench.evidence.methods import Listed
from workbench.evidence.protocol import Fitted, NotRunError, OutOfTimeError, Predictions, Trial

_EVERY = 0.01


@dataclass
class Cost:
    """What work took.

    Attributes
    ----------
    seconds
        Seconds by the wall clock.
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


def attempted(listed: Listed, trial: Trial, forward: float) -> tuple[Predictions | None, dict[str, float], str]:
    """What a method predicts of a test side and what it took; what goes wrong in it becomes a sentence.

    Parameters
    ----------
    listed
        The method, and whether it needs forward passes over the cells.
    trial
        Both sides of the split; of the held-out cells the method sees no label.
    forward
        Seconds of a forward pass over one cell.

    Returns
    -------
    predictions, costs, status
        None and no costs where it did not come to an end; the status says why.
    """
    try:
        with measured() as fit:
            fitted = listed.method.fit(trial.train)
        with ended(fitted), measured() as predict:
            predictions = fitted.predict(trial.test)
    # One method's fault must not end a campaign of hours; it stands in the table in its own words.
    except Exception as error:
        return None, {}, reason(error)
    fit, predict = _own(fitted, fit, predict)
    costs = {
        "fit_seconds": fit.seconds + getattr(fitted, "remembered_seconds", 0.0),
        "predict_seconds": predict.seconds,
        "forward_seconds": forward * (len(trial.train.cells) + len(trial.truth)) if listed.forward else 0.0,
        "n_parameters": fitted.n_parameters,
        "peak_bytes": max(fit.peak_bytes, predict.peak_bytes),
    }
    return predictions, costs, "ok"


def ended(fitted: Fitted) -> AbstractContextManager[Any]:
    """Context after which a fitted method holds no process any more.

    Parameters
    ----------
    fitted
        A fitted method, with or without a process of its own.
    """
    return closing(fitted) if hasattr(fitted, "close") else nullcontext()  # type: ignore[type-var]


def reason(error: Exception) -> str:
    """Status of a method that an error has ended.

    Parameters
    ----------
    error
        What the method raised, its own errors among it.

    Returns
    -------
    str
        Begins with ``not run``, ``out of time`` or ``failed``; one line.
    """
    if isinstance(error, NotRunError | OutOfTimeError):
        return f"{'not run' if isinstance(error, NotRunError) else 'out of time'}: {error}"
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _own(fitted: Fitted, fit: Cost, predict: Cost) -> tuple[Cost, Cost]:
    """Costs without the start of a process and the exchange of files, where a method knows its own."""
    seconds, peak = getattr(fitted, "seconds", None), getattr(fitted, "peak_bytes", None)
    if not seconds:
        return fit, predict
    return Cost(seconds["fit"], peak or 0), Cost(seconds["predict"], peak or 0)
