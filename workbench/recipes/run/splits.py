"""What the stages that take a run's operator apart share: splits, and the head that is taken apart."""

from __future__ import annotations

from itertools import combinations

from workbench.errors import EvaluationError, unknown_name
from workbench.operators.operator import Head, best_head, head_names
from workbench.recipes.run.context import RunContext
from workbench.seeds import generator


def fold_pairs(context: RunContext, n: int) -> list[tuple[int, ...]]:
    """Pairs of folds to leave out together, in an order drawn by the seed: repeated splits, whole donors where there are any.

    Parameters
    ----------
    context
        Run whose cells can be loaded.
    n
        Most pairs. With fewer than four folds each is left out alone instead.
    """
    folds = sorted(set(context.places[0]["fold"].tolist()))
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
    heads = head_names(shape)
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
    return best_head(context.scores(source, folds))
