"""What every space of cells is laid beside: neighbours of expression, and expression itself as a space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float32, Int, Shaped

from workbench.cells.expression import scale_of
from workbench.cells.matrix import row_blocks
from workbench.geometry.expression import Expression, expression_neighbors, residuals_of, technical_genes
from workbench.geometry.neighbors import row_slices
from workbench.geometry.overlap import FEWEST, BatchNeighbors, batch_neighbors

LOGGED = "log-normalised values, as there are no counts"
EXPRESSION = "expression"
# Axes of expression as a space: as many as the released models are wide. A PCA is usually made of fifty.
AXES, COMPONENTS = 512, 50
GENES = 2000
# Components with less than this share of the first one's variance are rounding.
_NONE = 1e-10

Parts = Iterator[tuple[Int[np.ndarray, " cell"], np.ndarray]]


@dataclass(frozen=True)
class Reference:
    """Expression, as every space of the same cells is laid beside it.

    Attributes
    ----------
    expression
        Neighbours inside batches; with the residuals that they are of where the values are counts.
    genes
        Numbers of the genes that both are of.
    axes
        Principal components of the same values, 512 at most, the widest first.
    """

    expression: Expression | BatchNeighbors
    genes: Int[np.ndarray, " gene"]
    axes: Float32[np.ndarray, "cell axis"]

    @property
    def neighbors(self) -> BatchNeighbors:
        """Neighbours inside batches."""
        found = self.expression
        return found.neighbors if isinstance(found, Expression) else found

    def baselines(self, components: int = COMPONENTS) -> dict[str, Float32[np.ndarray, "cell axis"]]:
        """Expression as a space, and its leading components, by name.

        Parameters
        ----------
        components
            Number of leading components that stand for a PCA.
        """
        few = self.axes[:, :components]
        return {EXPRESSION: self.axes, f"PCA, {few.shape[1]} components": few}


def make_reference(
    cells: AnnData, batch: Shaped[np.ndarray, " cell"] | None = None, *, k: int, fewest: int = FEWEST, seed: int
) -> Reference:
    """Neighbours of expression and expression as a space: of Pearson residuals of counts, or else of log-normalised values.

    Residuals are those of a cell's own batch; cells of batches that are too small for neighbours have those of one batch of them all.
    Without counts it is the 2,000 genes whose log-normalised values vary most.

    Parameters
    ----------
    cells
        Cells as `workbench.load` gives them.
    batch, k, fewest
        As in `overlap.split_batches`.
    seed
        As in `neighbors.find_neighbors`.

    Raises
    ------
    EvaluationError
        If no batch is large enough, or counts are none.

    Examples
    --------
    >>> import workbench
    >>> from workbench.geometry.reference import make_reference
    >>> found = make_reference(workbench.load("pbmc68k")[:80].copy(), k=5, seed=0)
    >>> list(found.baselines(10)), found.neighbors.kind
    (['expression', 'PCA, 10 components'], 'log-normalised values, as there are no counts')
    """
    if not scale_of(cells).counts:
        genes = _widest(cells)
        values = sp.vstack(list(_logged(cells, genes))).toarray()
        near = batch_neighbors(values, batch, k=k, fewest=fewest, kind=LOGGED, seed=seed)
        return Reference(near, genes, _axes(lambda: iter([(np.arange(len(values)), values)]), values.shape))
    aside = technical_genes(cells.var_names)
    found = expression_neighbors(cells.X, batch, leave_out=aside, k=k, n_genes=GENES, fewest=fewest, seed=seed)
    held = list(zip(found.neighbors.rows, found.residuals, strict=True))
    rest = np.setdiff1d(np.arange(cells.n_obs), np.concatenate(found.neighbors.rows))
    if len(rest):
        held.append((rest, residuals_of(cells.X, rest, found.genes)))
    return Reference(
        found, found.genes, _axes(lambda: ((rows, one.dense()) for rows, one in held), (cells.n_obs, len(found.genes)))
    )


def _axes(parts: Callable[[], Parts], shape: tuple[int, int]) -> Float32[np.ndarray, "cell axis"]:
    """Principal components of values that come in parts, so that they are never all there as float64."""
    n, d = shape
    mean = sum(values.sum(0, dtype=np.float64) for _, values in parts()) / n
    products = np.zeros((d, d))
    for _, values in parts():
        for part in row_slices(len(values), 8 * d):
            centred = values[part] - mean
            products += centred.T @ centred
    variance, axes = np.linalg.eigh(products)
    kept = np.flatnonzero(variance > _NONE * variance[-1])[::-1][: min(AXES, n - 1)]
    axes = axes[:, kept]
    # The sign of an axis means nothing; its largest part is made positive, so that it is always the same.
    axes *= np.sign(axes[np.abs(axes).argmax(0), np.arange(len(kept))])
    found = np.empty((n, len(kept)), dtype=np.float32)
    for rows, values in parts():
        for part in row_slices(len(values), 8 * d):
            found[rows[part]] = (values[part] - mean) @ axes
    return found


def _widest(cells: AnnData) -> Int[np.ndarray, " gene"]:
    """Genes whose log-normalised values vary most."""
    n, total, squares = cells.n_obs, np.zeros(cells.n_vars), np.zeros(cells.n_vars)
    for part in _logged(cells, None):
        total += np.asarray(part.sum(0)).ravel()
        squares += np.asarray(part.multiply(part).sum(0)).ravel()
    return np.sort(np.argsort(-(squares / n - (total / n) ** 2), kind="stable")[:GENES])


def _logged(cells: AnnData, columns: np.ndarray | None) -> Iterator[sp.csr_matrix]:
    """Log-normalised expression of all genes or some, block by block."""
    scale = scale_of(cells)
    depth = cells.obs["depth"].to_numpy(dtype=float) if scale.by_depth else None
    for start, block in row_blocks(cells.X):
        own = slice(start, start + block.shape[0])
        totals = scale.totals(block, cells.obs_names[own], None if depth is None else depth[own])
        yield scale.expression(block if columns is None else block[:, columns], totals)
