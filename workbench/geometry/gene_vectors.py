"""Mean vectors of genes layer by layer, and the axes that they spread along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.errors import EvaluationError
from workbench.geometry.dimension import participation_ratio

# In front of the first layer, as in the tables of probes.
ENTRY = -1
_TINY = 1e-9


@dataclass(frozen=True)
class GeneVectors:
    """Mean residual vector of each gene, behind each layer.

    Attributes
    ----------
    genes
        Genes in the vocabulary's spelling, in the order of the rows.
    layers
        Number of each layer; -1 is the stream in front of the first.
    n
        Cells in which the gene was a token: so many vectors a mean is made of.
    vectors
        Means in float64, of all layers; NaN where `n` is 0.
    table
        What each gene enters the model as, the same in every cell: its row of the gene table, behind the encoder's LayerNorm.
    """

    genes: tuple[str, ...]
    layers: tuple[int, ...]
    n: Int[np.ndarray, " gene"]
    vectors: Float[np.ndarray, "layer gene d"]
    table: Float[np.ndarray, "gene d"]

    def take(self, kept: Bool[np.ndarray, " gene"]) -> GeneVectors:
        """The same of some genes.

        Parameters
        ----------
        kept
            True where a gene stays, in the order of `genes`.
        """
        genes = tuple(gene for gene, stays in zip(self.genes, kept, strict=True) if stays)
        return GeneVectors(genes, self.layers, self.n[kept], self.vectors[:, kept], self.table[kept])


@dataclass(frozen=True)
class GeneAxes:
    """Singular axes of gene vectors that were centred over genes.

    Attributes
    ----------
    coordinates
        Place of each gene on the first axes, the widest first; of mean 0 and standard deviation 1 along each. The gene that lies
        farthest out is on the positive side.
    values
        All singular values, descending, of the centred vectors.
    participation
        Number of axes that share the variance, see `participation_ratio`.
    """

    coordinates: Float[np.ndarray, "gene axis"]
    values: Float[np.ndarray, " value"]
    participation: float

    @property
    def shares(self) -> Float[np.ndarray, " value"]:
        """Share of the variance that lies along each axis."""
        return self.values**2 / (self.values**2).sum()

    @property
    def points(self) -> Float[np.ndarray, "gene axis"]:
        """Genes in the space of the first axes, at their true distances up to one factor."""
        return self.coordinates * self.values[: self.coordinates.shape[1]]


def singular_axes(vectors: Float[np.ndarray, "gene d"], n_axes: int) -> GeneAxes:
    """Singular axes of gene vectors, centred over genes.

    Parameters
    ----------
    vectors
        One row per gene, finite; two genes or more that differ.
    n_axes
        Axes that coordinates are given for, at most: axes without any variance are left out.

    Raises
    ------
    EvaluationError
        If a vector is not finite, there are fewer than three genes, or all of them are the same.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.gene_vectors import singular_axes
    >>> found = singular_axes(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]), 2)
    >>> found.shares.tolist(), round(found.participation, 2)
    ([0.9, 0.1], 1.22)
    """
    if n_axes < 1:
        raise EvaluationError(f"{n_axes} axes were asked for; give 1 or more.")
    if len(vectors) < 3 or not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(1)).sum())
        raise EvaluationError(
            f"Axes need three genes or more whose vectors are finite; found {len(vectors)}, {bad} of them not finite: "
            "leave out genes that no cell has as a token."
        )
    centred = vectors - vectors.mean(0)
    u, s, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    if s[0] <= _TINY * max(np.abs(vectors).max(), 1):
        raise EvaluationError("All genes have the same vector, so that there is no axis; take another layer.")
    n = min(n_axes, int((s > _TINY * s[0]).sum()))
    far = np.abs(u[:, :n]).argmax(0)
    coordinates = u[:, :n] * np.sign(u[far, np.arange(n)]) * np.sqrt(len(u))
    return GeneAxes(coordinates, s, participation_ratio(centred))
