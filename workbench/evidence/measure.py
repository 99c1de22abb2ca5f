"""Seconds and memory of a piece of work, and of a method on a split; what goes wrong in a method becomes a sentence."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

from workbench.evidence.methods import Listed
from workbench.evidence.peer_worker import Watch
from workbench.evidence.protocol import Fitted, NotRunError, OutOfTimeError, Predictions, Trial


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
        with Watch() as fit:
            fitted = listed.method.fit(trial.train)
        with ended(fitted), Watch() as predict:
            predictions = fitted.predict(trial.test)
    # One method's fault must not end a campaign of hours; it stands in the table in its own words.
    except Exception as error:
        return None, {}, reason(error)
    # A method with a process of its own knows what it took without its start and the exchange of files.
    seconds = getattr(fitted, "seconds", None) or {"fit": fit.seconds, "predict": predict.seconds}
    costs = {
        "fit_seconds": seconds["fit"] + getattr(fitted, "remembered_seconds", 0.0),
        "predict_seconds": seconds["predict"],
        "forward_seconds": forward * (len(trial.train.cells) + len(trial.truth)) if listed.forward else 0.0,
        "n_parameters": fitted.n_parameters,
        "peak_bytes": getattr(fitted, "peak_bytes", max(fit.peak, predict.peak)),
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
