"""Errors as sentences: what was wrong, what was found, what to do.

Every error that a user can cause is a `WorkbenchError`; ``docs/errors.md`` is the index of its subclasses.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorkbenchError(ValueError):
    """Base of every error that input can cause; the command line prints it as one sentence."""


class CheckpointError(WorkbenchError):
    """A checkpoint folder is missing a file, is corrupt, holds code, or does not fit its own configuration."""


class VocabularyError(WorkbenchError):
    """A vocabulary lacks a special token, repeats an id, or does not fit the embedding matrix."""


class CellsError(WorkbenchError):
    """A cell matrix cannot be used: a column is missing, values are impossible, or nothing is left to work on."""


class GeneMatchError(WorkbenchError):
    """Too few genes of the cells were found in the vocabulary or panel."""


class HookError(WorkbenchError):
    """A hook name matches no hook point of the model."""


class ShapeError(WorkbenchError):
    """Tokens, residuals or operators have a shape that the model or panel cannot take."""


class ConfigError(WorkbenchError):
    """A configuration file has an unknown key, a bad value, or names something that does not exist."""


class OutputError(WorkbenchError):
    """An output folder cannot be written, or belongs to another run."""


class ArtifactError(WorkbenchError):
    """A file that the workbench wrote is truncated, tampered with, or of another kind."""


class EvaluationError(WorkbenchError):
    """Anchors, labels or folds do not allow what was asked: too few cells, one class, no ruler stage."""


def near_matches(name: str, known: Iterable[str], n: int = 3) -> str:
    """Sentence fragment that lists the known names closest to `name`.

    Parameters
    ----------
    name
        What was asked for, as the user wrote it.
    known
        Names that exist; case is ignored.
    n
        At most this many names are listed.

    Returns
    -------
    str
        For example ``"did you mean 'layers' or 'layer'?"``; empty when nothing is near.
    """
    lowered = {k.lower(): k for k in known}
    hits = [lowered[h] for h in difflib.get_close_matches(name.lower(), lowered, n=n, cutoff=0.5)]
    return f"did you mean {' or '.join(repr(h) for h in hits)}?" if hits else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Sentence for an unknown name: says the kind, the name, and the near matches or the first known names.

    Parameters
    ----------
    kind
        What sort of thing was named, for example ``"hook"``.
    name
        What was asked for, as the user wrote it.
    known
        Names that exist, in the order in which to list them.

    Returns
    -------
    str
        One sentence.
    """
    known = list(known)
    hint = near_matches(name, known)
    if not hint:
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        hint = f"known: {shown}." if known else "none exist."
    return f"Unknown {kind} '{name}': {hint}"
