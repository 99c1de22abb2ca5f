"""Groups of cells by who can signal to whom: a ruler from the expression of senders in one group and of receivers in another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse.csgraph import shortest_path

from workbench.errors import EvaluationError
from workbench.evidence.ruler import Ruler, Signal, label_map


def signal_strength(
    expression: Float[np.ndarray, "group gene"], genes: Sequence[str], signals: Sequence[Signal]
) -> tuple[Float[np.ndarray, "group group"], int]:
    """How strongly each group can signal to each other: mean over pairs of sender in the one times receiver in the other.

    A complex is expressed as its least expressed subunit is; a pair counts where all of its genes are measured.

    Parameters
    ----------
    expression
        Mean log-normalised expression of each group.
    genes
        Symbols of the columns; case is ignored.
    signals
        Senders and receivers, complexes whole.

    Returns
    -------
    strength, n
        From the group of the row to that of the column, and how many pairs are measured.

    Raises
    ------
    EvaluationError
        If no pair is measured.
    """
    column = {gene.upper(): i for i, gene in enumerate(genes)}
    sides = [[[column.get(gene.upper(), -1) for gene in side] for side in signal] for signal in signals]
    known = [(sent, received) for sent, received in sides if min(*sent, *received) >= 0]
    if not known:
        raise EvaluationError(
            f"None of {len(signals)} pairs of senders and receivers has all of its genes among the {len(genes)} that are measured; check how genes "
            "are named, or take other cells."
        )
    strength = np.zeros((len(expression), len(expression)))
    for sent, received in known:
        strength += np.outer(expression[:, sent].min(1), expression[:, received].min(1))
    return strength / len(known), len(known)


def signalling_ruler(name: str, groups: Sequence[str], strength: Float[np.ndarray, "group group"], about: str) -> Ruler:
    """Ruler over groups of cells: shortest paths over links of length 1 / square root of the strength, both directions averaged.

    It is made of the very expression that a model reads, so that expression alone follows it as well: that is the control.

    Parameters
    ----------
    name, about
        Name of the ruler, and where it is from.
    groups
        Names of the groups, each once.
    strength
        From the group of the row to that of the column, as `signal_strength` gives it.

    Raises
    ------
    EvaluationError
        If there are fewer than three groups, or a group can neither signal nor be signalled to.
    """
    both = (strength + strength.T) / 2
    np.fill_diagonal(both, 0)
    if len(groups) < 3 or not (both.max(1) > 0).all():
        alone = [group for group, most in zip(groups, both.max(1, initial=0), strict=True) if most <= 0]
        raise EvaluationError(
            f"Of {len(groups)} groups of cells {len(alone)} can signal to none ({', '.join(alone[:3])}); three groups that can are needed. Take more "
            "genes, or larger groups."
        )
    with np.errstate(divide="ignore"):
        lengths = np.where(both > 0, 1 / np.sqrt(both), 0)
    paths = shortest_path(lengths, directed=False)
    names = tuple(groups)
    return Ruler(
        name=name,
        stages=names,
        branches=names,
        distances=paths / paths.max(),
        depths=np.zeros(len(names)),
        labels=label_map(names, {}),
        literature=dict.fromkeys(names, about),
        about=about,
    )
