"""What the stages that take a run's operator apart share: splits, and the head that is taken apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from workbench.errors import EvaluationError, unknown_name
from workbench.operators.operator import Head, head_name
from workbench.recipes.run.context import RunContext
from workbench.seeds import generator


def fold_pairs(context: RunContext, n: int) -> list[tuple[int, ...]]:
    """Pairs of folds to leave out together, in an order drawn by the seed: repeated splits, whole donors where there are any.

    Parameters
    ----------
    context
        Run whose cells were placed.
    n
        Most pairs. With fewer than four folds each is left out alone instead.
    """
    folds = sorted(set(context.cells.obs["fold"].tolist()))
    if len(folds) < 4:
        return [(one,) for one in folds]
    pairs = list(combinations(folds, 2))
    order = generator(context.config.seed, "fold pairs").permutation(len(pairs))
    return [pairs[i] for i in order[:n]]


def split_name(folds: tuple[int, ...]) -> str:
    """Name of a split in tables, such as ``0+3``.

    Parameters
    ----------
    folds
        Numbers of the folds that it leaves out.
    """
    return "+".join(map(str, folds))


def named_head(name: str, shape: Head) -> Head:
    """Layer and number of a head.

    Parameters
    ----------
    name
        Its name, such as ``L2H5``.
    shape
        Number of layers, and of heads per layer.

    Raises
    ------
    EvaluationError
        If the model has no such head; the near names are listed.
    """
    heads = {head_name(*head): head for head in np.ndindex(*shape)}
    if name not in heads:
        raise EvaluationError(unknown_name("head", name, heads))
    return heads[name]


def head_of(context: RunContext, name: str | None, folds: tuple[int, ...] = ()) -> Head:
    """The head that is taken apart: the named one, or the best of a screen of the anchors outside some folds.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read.
    name
        Name of the head, such as ``L2H5``; None to choose it.
    folds
        Numbers of the folds whose cells have no part in the choice; none by default.

    Raises
    ------
    EvaluationError
        If the model has no head of that name, or no head can be scored.
    """
    if name is not None:
        return named_head(name, context.operators.shape)
    source = context.operators.leaving(context.cells.groups_in(folds))
    scores = {head: value for head, value in context.scores(source, folds).items() if np.isfinite(value)}
    if not scores:
        raise EvaluationError("No head can be scored on held-out anchors, so none can be chosen; name one as 'head'.")
    return max(scores, key=lambda head: (scores[head], tuple(-part for part in head)))
