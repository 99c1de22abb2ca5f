"""What is known of genes beforehand: expression level and the like, and family; taken out of coordinates, and matched for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm, rankdata

from workbench.errors import EvaluationError, ShapeError

# Genes that each column of the regression needs; a family with fewer genes than so many has no mean of its own.
_PER_COLUMN, FEWEST_OF_FAMILY = 10, 3
# Quantiles at which a covariate's line may bend: polynomials alone miss the ends, where genes of many a set lie.
_KNOTS = (0.05, 0.2, 0.5, 0.8, 0.95)
_TINY = 1e-9


@dataclass(frozen=True)
class GeneDesign:
    """A regression of anything per gene on covariates, with a mean of its own for each large family.

    Attributes
    ----------
    group
        Number of each gene's family; all genes without a large one have the same number.
    basis
        Orthonormal columns that the polynomial of the covariates spans within families.
    """

    group: Int[np.ndarray, " gene"]
    basis: Float[np.ndarray, "gene column"]

    @property
    def columns(self) -> int:
        """Numbers that the regression fits: means of families, and columns."""
        return int(self.group.max()) + 1 + self.basis.shape[1]

    def residuals(self, values: Float[np.ndarray, "gene axis"]) -> Float[np.ndarray, "gene axis"]:
        """What the covariates do not explain; of mean 0 in each family.

        Parameters
        ----------
        values
            One row per gene, such as coordinates on axes.
        """
        within = _within(values, self.group)
        return within - self.basis @ (self.basis.T @ within)

    def explained(self, values: Float[np.ndarray, "gene axis"]) -> Float[np.ndarray, " axis"]:
        """Share of the variance that the covariates explain: R2, adjusted for the number of columns; at least 0.

        Parameters
        ----------
        values
            One row per gene, such as coordinates on axes.
        """
        n, left = len(values), len(values) - self.columns
        total = ((values - values.mean(0)) ** 2).sum(0)
        ratio = (self.residuals(values) ** 2).sum(0) / np.where(total > 0, total, 1)
        return np.where(total > 0, np.maximum(1 - ratio * (n - 1) / max(left, 1), 0), 0)


def make_design(
    covariates: Float[np.ndarray, "gene covariate"], family: Sequence[str] | np.ndarray | None = None
) -> GeneDesign:
    """Regression on rank-normal covariates: powers up to the third, products of two, and lines that bend, as far as the genes suffice.

    A covariate is brought to normal scores first, so that its scale and outliers mean nothing. Squares and products, then cubes, then lines that
    bend at five quantiles, are left out where there are fewer than ten genes a column. A family with three genes or more has a mean of its own.

    Parameters
    ----------
    covariates
        One row per gene, finite; a constant column takes nothing away.
    family
        Family of each gene, empty where it has none; None for no families.

    Raises
    ------
    EvaluationError
        If a covariate is not finite, or there are fewer than ten genes a column of the plain covariates and families.
    ShapeError
        If there is not one family name per gene.
    """
    if not np.isfinite(covariates).all():
        raise EvaluationError("A covariate of a gene is not finite; leave such genes out.")
    n = len(covariates)
    if family is not None and len(family) != n:
        raise ShapeError(f"There are {len(family)} families and {n} genes; give one each, empty where a gene has none.")
    group = _groups([""] * n if family is None else [str(one) for one in family])
    scores = _standard(norm.ppf((rankdata(covariates, axis=0) - 0.5) / n))
    k, room = scores.shape[1], n / _PER_COLUMN - group.max() - 1
    if k > room:
        raise EvaluationError(
            f"{n} genes are too few to take out {k} covariates and {group.max() + 1} means of families: {_PER_COLUMN} genes a column are "
            "needed. Take more genes, or fewer covariates or coarser families."
        )
    products = [scores[:, i] * scores[:, j] for i in range(k) for j in range(i, k)]
    columns = [scores]
    hinges = [np.maximum(scores - norm.ppf(q), 0) for q in _KNOTS]
    for more in (np.column_stack(products), scores**3, np.hstack(hinges)):
        if sum(part.shape[1] for part in columns) + more.shape[1] > room:
            break
        columns.append(_standard(more))
    u, s, _ = np.linalg.svd(_within(np.column_stack(columns), group), full_matrices=False)
    return GeneDesign(group, u[:, s > 1e-8 * max(s.max(initial=0), _TINY)])


def make_strata(
    covariates: Float[np.ndarray, "gene covariate"],
    family: Sequence[str] | np.ndarray | None = None,
    min_size: int = 20,
) -> Int[np.ndarray, " gene"]:
    """Strata of genes that are alike in their covariates, each of `min_size` genes or more.

    Genes in a large family are apart from the others where both are enough. Each part is then halved at the median of one covariate
    after the other, as long as both halves are large enough.

    Parameters
    ----------
    covariates, family
        As in `make_design`.
    min_size
        Genes of a stratum, at least; with fewer genes than twice as many there is one stratum.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.gene_covariates import make_strata
    >>> make_strata(np.arange(8.0)[:, None], min_size=2).tolist()
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    n = len(covariates)
    ranks = rankdata(covariates, axis=0)
    out, number = np.zeros(n, dtype=int), 0
    parts = [np.arange(n)]
    if family is not None:
        large = _groups([str(one) for one in family]) > 0
        if min(large.sum(), (~large).sum()) >= min_size:
            parts = [np.flatnonzero(~large), np.flatnonzero(large)]
    todo = [(part, 0) for part in reversed(parts)]
    while todo:
        rows, at = todo.pop()
        if len(rows) < 2 * min_size:
            out[rows], number = number, number + 1
            continue
        order = rows[np.argsort(ranks[rows, at % ranks.shape[1]], kind="stable")]
        half = len(rows) // 2
        todo += [(np.sort(order[half:]), at + 1), (np.sort(order[:half]), at + 1)]
    return out


def _groups(family: Sequence[str]) -> np.ndarray:
    """Numbers of large families from 1, in the order of their names; 0 for all other genes."""
    sizes = Counter(family)
    large = sorted(name for name, size in sizes.items() if name and size >= FEWEST_OF_FAMILY)
    number = {name: i for i, name in enumerate(large, 1)}
    found = np.array([number.get(name, 0) for name in family], dtype=int)
    # Where every gene has a large family, nobody is left for 0.
    return found if (found == 0).any() else found - 1


def _within(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Values less the mean of their group."""
    size = np.bincount(group)
    sums = np.zeros((len(size), values.shape[1]))
    np.add.at(sums, group, values)
    return values - (sums / np.maximum(size, 1)[:, None])[group]


def _standard(values: np.ndarray) -> np.ndarray:
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > _TINY, spread, 1)
