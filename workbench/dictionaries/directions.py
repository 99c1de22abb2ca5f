"""Random directions of the cells' expression: what the genes of a feature are compared with.

Genes of a program go together in the cells, so that most directions of the expression have them near each other. Lists and
rankings whose genes are exchanged at random do not, and beside them any direction of the cells looks like a program.

The score of a gene for a feature is its mean activation over the tokens of that gene. The peer is a feature that knows no
program: active by a random number of the cell, times how much of the gene is there. Its scores are X^T w, for expression X and
random numbers w per cell, which is a random direction in the span of the cells. What else a feature's genes hang on is kept: how
many there are, the scores of a ranking, and how far they lean to genes that are expressed strongly, for which X is standardised
by gene and `CellDirections.leaning` is added. Directions of the activations would be no peer: they have the genes' vectors in them, and with
these what the model has learnt of genes that are alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Real
from scipy.stats import norm, rankdata

from workbench.errors import EvaluationError, ShapeError
from workbench.seeds import generator

# Directions that are drawn at once; genes whose neighbours are weighed at once; genes at the mean that count beside a gene's neighbours. With ten of these
# features lean further than their draws, and p is too small where sets differ in expression.
_AT_ONCE, _GENES_AT_ONCE, _PRIOR = 100, 1000, 1.0
# Rankings whose steps are made at once, and shares of the genes above their thresholds.
_RANKINGS_AT_ONCE = 50
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class CellDirections:
    """Random directions of the expression of some cells, and covariates that features may lean to.

    Attributes
    ----------
    expression
        Expression of each gene of the panel in each cell, zeros left out; cells in an order that does not hang on that of the data.
    covariates
        Normal scores of what is known of each gene beforehand, such as how strongly it is expressed.
    """

    expression: sp.csr_matrix
    covariates: Float[np.ndarray, "gene covariate"]

    def beside(self, covariate: Real[np.ndarray, " gene"]) -> CellDirections:
        """The same directions, with one covariate more.

        Parameters
        ----------
        covariate
            A number for each gene, of which the rank counts.
        """
        return replace(self, covariates=np.column_stack([self.covariates, _normal_scores(covariate)]))

    def draws(self, n: int, seed: int) -> Iterator[Float[np.ndarray, " gene"]]:
        """Directions one after the other; of each gene normal with mean 0 and variance 1, and correlated like the genes over the cells.

        A gene that does not vary goes with none.

        Parameters
        ----------
        n, seed
            Number of directions, and their seed; fewer of the same seed are the first of these.
        """
        x = self.expression.astype(np.float64)
        mean = np.asarray(x.mean(0)).ravel()
        # Squares of what is left when the mean is off: their difference would be rounding for a gene that does not vary.
        squares = np.bincount(x.indices, weights=(x.data - mean[x.indices]) ** 2, minlength=x.shape[1])
        spread = np.sqrt((squares + (x.shape[0] - np.bincount(x.indices, minlength=x.shape[1])) * mean**2) / x.shape[0])
        varies = spread > 1e-9 * max(spread.max(initial=0), 1e-300)
        if not varies.any():
            raise EvaluationError(
                f"No gene varies over the {x.shape[0]} cells, so that none go together in random directions; take more cells."
            )
        scale = np.where(varies, spread, 1) * np.sqrt(x.shape[0])
        for start in range(0, n, _AT_ONCE):
            rng = generator(seed, "directions of features", str(start))
            weights, alone = rng.standard_normal((_AT_ONCE, x.shape[0])), rng.standard_normal((_AT_ONCE, x.shape[1]))
            drawn = ((x.T @ weights.T).T - weights.sum(1)[:, None] * mean) / scale
            yield from np.where(varies, drawn, alone)[: n - start]

    def leaning(self, lists: Bool[np.ndarray, "list gene"]) -> Float[np.ndarray, "list gene"]:
        """What each list adds to a direction, so that the genes that come out on top lean to the covariates as the list does.

        The share of a gene's neighbours in the covariates that the list holds, as a quantile of the normal distribution. Neighbours are weighed by
        a normal density of the width of Scott's rule, and beside them one gene of the list's mean share counts.

        Parameters
        ----------
        lists
            Whether each gene is in each list, one at least.
        """
        return norm.ppf(self._smoothed(lists.astype(np.float64)))

    def steps(self, scores: Float[np.ndarray, "feature gene"]) -> Iterator[Float[np.ndarray, "step gene"]]:
        """How far the direction of each gene has to go to be among more and more of the genes that a ranking has on top.

        The genes of the ranking above each of some thresholds are a list, and the step is what `leaning` says of it. So genes with a score of 0 lean
        as they do.

        Parameters
        ----------
        scores
            Scores of the genes by which each ranking ranks them, which are not all equal.

        Yields
        ------
        ndarray
            Steps of one ranking after the other, from the longest list to the shortest; of equal scores there are fewer, and one at least.
        """
        for start in range(0, len(scores), _RANKINGS_AT_ONCE):
            lists = [_above(one) for one in scores[start : start + _RANKINGS_AT_ONCE]]
            yield from np.split(-self.leaning(np.concatenate(lists)), np.cumsum([len(one) for one in lists])[:-1])

    def _smoothed(self, values: Float[np.ndarray, "row gene"]) -> Float[np.ndarray, "row gene"]:
        """Mean of each row over the neighbours of each gene, drawn to the mean of the row."""
        n, k = self.covariates.shape
        if values.shape[1] != n:
            raise ShapeError(
                f"There are covariates of {n} genes and values of {values.shape[1]}; give both of one panel."
            )
        scaled = self.covariates / n ** (-1 / (k + 4))
        squares, found = (scaled**2).sum(1), np.empty(values.shape)
        for start in range(0, n, _GENES_AT_ONCE):
            part = slice(start, start + _GENES_AT_ONCE)
            apart = np.maximum(squares[part, None] + squares - 2 * scaled[part] @ scaled.T, 0)
            near = np.exp(-apart / 2)
            sums = values @ near.T + _PRIOR * values.mean(1, keepdims=True)
            found[:, part] = sums / (near.sum(1) + _PRIOR)
        return found


def cell_directions(expression: sp.csr_matrix, covariates: Real[np.ndarray, "gene covariate"]) -> CellDirections:
    """Random directions of cells, from their expression and what features may lean to.

    Parameters
    ----------
    expression
        Cells by genes of the panel, finite.
    covariates
        A row for each gene, of which the ranks count.

    Raises
    ------
    EvaluationError
        If a value of the expression is not finite.
    ShapeError
        If there is not one row of covariates per gene.
    """
    if len(covariates) != expression.shape[1]:
        raise ShapeError(
            f"There are covariates of {len(covariates)} genes and expression of {expression.shape[1]}; give both of one panel."
        )
    if not np.isfinite(expression.data).all():
        raise EvaluationError("Expression is not all finite, so that genes have no correlation; leave such cells out.")
    return CellDirections(expression, np.column_stack([_normal_scores(column) for column in covariates.T]))


def ranked(
    steps: Float[np.ndarray, "step gene"], drawn: Float[np.ndarray, "draw gene"]
) -> Float[np.ndarray, "draw gene"]:
    """Numbers that rank genes as directions do, and lean to the covariates as a ranking does: steps that a gene's direction has made, and its way to the next.

    Parameters
    ----------
    steps
        Steps of the ranking, from `CellDirections.steps`.
    drawn
        Directions that genes are ranked by, from `CellDirections.draws`.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.dictionaries.directions import ranked
    >>> ranked(np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[0.5, 0.5], [1.5, -0.5]])).tolist()
    [[0.5, 0.25], [1.5, -0.5]]
    """
    found = np.minimum(drawn - steps[0], 0) + np.maximum(drawn - steps[-1], 0)
    for near, far in zip(steps[:-1], steps[1:], strict=True):
        found += np.clip((drawn - near) / (far - near), 0, 1)
    return found


def _above(scores: Float[np.ndarray, " gene"]) -> Bool[np.ndarray, "list gene"]:
    order = np.sort(scores)[::-1]
    lists = scores > np.unique([order[int(share * len(order))] for share in _SHARES])[:, None]
    return lists[lists.any(1)] if lists.any() else (scores > order[-1])[None]


def _normal_scores(values: Real[np.ndarray, " gene"]) -> Float[np.ndarray, " gene"]:
    return norm.ppf((rankdata(values) - 0.5) / len(values))
