"""What an operator writes: whether the genes that it ties a gene to follow that gene, over cells that it was not made of.

The adaptor depends on an operator A through A A^T alone, so that no holdout and no readout looks at its columns. This does. Genes are dealt into
two halves; expression of one half times A is a score of every gene of the other, which is compared with that gene's own expression. No gene
has a part in its own score. To turn what A writes (A times any rotation) changes the scores, and leaves A A^T as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from workbench.operators.controls import LEVELS
from workbench.seeds import generator, order_of
from workbench.stats import permutation_p

# What is left of a gene when the covariates are taken out may be rounding: less than this share of its length is taken for nothing.
_LEAST = 1e-6
Followed = tuple[Float[np.ndarray, "score gene"], ...]


@dataclass(frozen=True)
class Deal:
    """Genes in two halves, and exchanges of the names of written genes.

    Attributes
    ----------
    read
        For each gene, whether it is of the first half: this half is read for the other, then the other for this one.
    exchanged
        For each half, written genes in exchanged order, a row per draw; a gene changes places with those of its level of expression.
    """

    read: Bool[np.ndarray, " gene"]
    exchanged: tuple[Int[np.ndarray, "draw gene"], ...]

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Genes that are read, first those of the first half."""
        return self.read, ~self.read


@dataclass(frozen=True)
class Written:
    """How an operator's scores follow the genes that they are scores of.

    Attributes
    ----------
    correlation
        Mean over the genes of the correlation of score and expression over cells, from -1 to 1.
    by_fold
        The same of each fold of cells.
    null
        The same with written genes exchanged, a value for each draw.
    n_genes
        Genes whose score and expression vary over the cells of every fold.
    """

    correlation: float
    by_fold: Float[np.ndarray, " fold"]
    null: Float[np.ndarray, " draw"]
    n_genes: int

    @property
    def p(self) -> float:
        """Share of draws as far from the mean of all as the correlation is, on either side, itself counted."""
        # With the observed one in the mean, so that it is one draw like the others where nothing is written.
        middle = float(np.append(self.null, self.correlation).mean())
        return permutation_p(abs(self.correlation - middle), np.abs(self.null - middle))


def deal_genes(genes: Sequence[str], mean: Float[np.ndarray, " gene"], n_draws: int, seed: int) -> Deal:
    """Deal genes into halves by name and seed, evenly inside each tenth of mean expression.

    One deal, not several: a gene's scores in two deals share read genes, which exchanges in each of them alone would not show.

    Parameters
    ----------
    genes
        Symbols of the panel, four or more.
    mean
        Mean expression of each gene, whose order makes the tenths.
    n_draws
        Exchanges of the names of written genes.
    seed
        Seed of the halves and the exchanges.
    """
    levels, order = np.empty(len(genes), dtype=int), np.argsort(mean, kind="stable")
    for number, level in enumerate(np.array_split(order, min(LEVELS, max(1, len(order) // 4)))):
        levels[level] = number
    read, place = np.zeros(len(genes), dtype=bool), order_of(seed, genes, "half of the genes")
    read[place[np.argsort(levels[place], kind="stable")][::2]] = True
    exchanged = []
    for part, written in enumerate((levels[~read], levels[read])):
        rng, base = generator(seed, "written genes exchanged", str(part)), np.argsort(written, kind="stable")
        orders = np.empty((n_draws, len(written)), dtype=int)
        # Genes of a level stay among its places, in an order of their own.
        orders[:, base] = np.argsort(written + rng.random(orders.shape), axis=1)
        exchanged.append(orders)
    return Deal(read, tuple(exchanged))


@dataclass(frozen=True)
class Compared:
    """Cells whose expression scores are compared with, as every operator needs them; of each half of the genes.

    Correlations and lengths over cells stay as they are when all cells are turned alike, so that as many rows as genes are enough.

    Attributes
    ----------
    read
        Expression of the genes that are read without what is taken out, row by gene.
    taken
        What was taken out of it, covariate by gene.
    written
        Expression of the others without what is taken out, row by gene, each gene of length 1; NaN where nothing is left.
    n_cells
        Number of cells that were compared.
    """

    read: tuple[Float[np.ndarray, "row gene"], ...]
    taken: tuple[Float[np.ndarray, "covariate gene"], ...]
    written: tuple[Float[np.ndarray, "row gene"], ...]
    n_cells: int


def compared_cells(
    expression: Float[np.ndarray, "cell gene"], deal: Deal, apart: Float[np.ndarray, "cell covariate"]
) -> Compared:
    """Cells to compare scores with.

    Parameters
    ----------
    expression
        Log-normalised expression of cells that no operator to come was made of.
    deal
        Genes that are read and written.
    apart
        What is taken out of scores and expression by least squares, as `covariates` gives it.
    """
    left, sizes, _ = np.linalg.svd(apart, full_matrices=False)
    basis = left[:, sizes > 1e-10 * sizes.max()]
    halves = []
    for part in deal.parts:
        x, y = expression[:, part], expression[:, ~part]
        of_read, of_written = basis.T @ x, basis.T @ y
        turn, rows = np.linalg.qr(x - basis @ of_read)
        halves.append((rows, of_read, turn.T @ _standardised(y - basis @ of_written, of_written)))
    read, taken, written = zip(*halves, strict=True)
    return Compared(read, taken, written, len(expression))


def follow(cells: Compared, operator: Float[np.ndarray, "gene gene"], deal: Deal) -> Followed:
    """Correlation over cells of each written gene's score with each written gene's expression.

    Parameters
    ----------
    cells
        Cells that the operator was not made of.
    operator
        Row: gene that is read. Column: gene that is written.
    deal
        Genes that are read and written.

    Returns
    -------
    tuple of ndarray
        A matrix for either half. Row: whose score; column: whose expression. NaN where one of both does not vary.
    """
    return tuple(
        _standardised(x @ operator[np.ix_(part, ~part)], taken @ operator[np.ix_(part, ~part)]).T @ written
        for x, taken, written, part in zip(cells.read, cells.taken, cells.written, deal.parts, strict=True)
    )


def judge_written(followed: Sequence[Followed], deal: Deal) -> Written:
    """Whether scores follow their own gene more than another one of the same level of expression.

    Parameters
    ----------
    followed
        What `follow` gave for each fold of cells; folds count alike.
    deal
        Genes that were read and written, and their exchanges.
    """
    matrices = [np.mean(part, 0) for part in zip(*followed, strict=True)]
    own = np.concatenate([np.diag(one) for one in matrices])
    known = np.isfinite(own)
    if not known.any():
        nothing = np.full(len(deal.exchanged[0]), np.nan)
        return Written(float("nan"), np.full(len(followed), np.nan), nothing, 0)
    by_fold = [np.concatenate([np.diag(part) for part in fold])[known].mean() for fold in followed]
    drawn = [one[orders, np.arange(len(one))] for one, orders in zip(matrices, deal.exchanged, strict=True)]
    return Written(
        float(own[known].mean()), np.array(by_fold), np.nanmean(np.concatenate(drawn, 1), 1), int(known.sum())
    )


def covariates(
    size: Float[np.ndarray, " cell"], kinds: Shaped[np.ndarray, " cell"] | None = None
) -> Float[np.ndarray, "cell covariate"]:
    """Columns for `compared_cells`: library size, and one for each kind of cell.

    Parameters
    ----------
    size
        Logarithm of each cell's library size.
    kinds
        Cell type of each cell: what differs between types then counts for nothing. None: all cells are of one kind.
    """
    number = np.zeros(len(size), dtype=int) if kinds is None else np.unique(kinds, return_inverse=True)[1]
    return np.column_stack([np.eye(number.max(initial=0) + 1)[number], size - size.mean()])


def _standardised(rest: np.ndarray, explained: np.ndarray) -> np.ndarray:
    """Columns of length 1; NaN where next to nothing is left beside what was taken out, given by its coefficients."""
    length = np.linalg.norm(rest, axis=0)
    varies = length > _LEAST * np.hypot(length, np.linalg.norm(explained, axis=0))
    return rest / np.where(varies, length, np.nan)
