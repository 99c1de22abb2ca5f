"""What training cells express: means, and a few components by which genes that a file lacks are told from those that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float

RANK = 20
# Least share of a gene's mean variance that is noise: no gene tells all about another.
_NOISE = 0.01


@dataclass(frozen=True)
class ExpressionModel:
    """Probabilistic principal components of log-normalised expression, with a noise of its own for each gene.

    A cell is mean + loadings @ factors + noise, the factors independent with variance 1. What is to be expected of a gene that was
    not measured is then linear in those that were, and folds into any linear latent.

    Attributes
    ----------
    mean
        Mean of each gene over the training cells.
    loadings
        Gene by component, with the standard deviation of the component.
    noise
        Variance of each gene beside the components, above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from workbench.operators.expression_model import ExpressionModel
    >>> rng = np.random.default_rng(0)
    >>> one = rng.gamma(2.0, size=(500, 1))
    >>> known = ExpressionModel.fit(sp.csr_matrix(np.hstack([one, 2 * one])), rank=1)  # the second gene is twice the first
    >>> matrix, offset = known.folded(np.array([[0.0], [1.0]]), np.zeros(1), np.array([True, False]))
    >>> float((np.array([[3.0, 0.0]]) @ matrix + offset)[0, 0].round(1))  # the latent is the second gene, which is not there
    5.9
    """

    mean: Float[np.ndarray, " gene"]
    loadings: Float[np.ndarray, "gene component"]
    noise: Float[np.ndarray, " gene"]

    @classmethod
    def fit(cls, x: sp.csr_matrix, rank: int = RANK) -> ExpressionModel:
        """Fit to training cells; nothing in it is random.

        Parameters
        ----------
        x
            Log-normalised expression, cell by gene, two cells or more.
        rank
            Number of components, at most; as many as cells and genes allow where that is fewer.
        """
        from sklearn.decomposition import PCA  # not needed to apply what was fitted

        x = sp.csr_matrix(x, dtype=np.float64)
        rank = min(rank, x.shape[0] - 1, x.shape[1])
        mean = np.asarray(x.mean(0)).ravel()
        variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
        pca = PCA(rank, svd_solver="covariance_eigh").fit(x)
        loadings = pca.components_.T * np.sqrt(np.maximum(pca.explained_variance_, 0.0))
        floor = _NOISE * max(float(variance.mean()), 1e-12)
        noise = np.maximum(variance - (loadings**2).sum(1), floor)
        return cls(mean, loadings, noise)

    def folded(
        self, matrix: Float[np.ndarray, "gene k"], offset: Float[np.ndarray, " k"], measured: Bool[np.ndarray, " gene"]
    ) -> tuple[Float[np.ndarray, "gene k"], Float[np.ndarray, " k"]]:
        """A linear latent in which what was not measured is what is to be expected of it, given what was.

        Parameters
        ----------
        matrix, offset
            Latent z = x @ matrix + offset of all genes.
        measured
            Whether each gene is in the cells that come.

        Returns
        -------
        matrix, offset
            The same latent of the genes that were measured; rows of the others are 0. With all genes measured they come back as
            they are.
        """
        if measured.all():
            return matrix, offset
        there = self.loadings[measured] / self.noise[measured, None]
        inner = np.eye(self.loadings.shape[1]) + there.T @ self.loadings[measured]
        carried = self.loadings[~measured].T @ matrix[~measured]
        more = there @ np.linalg.solve(inner, carried)
        out = np.zeros_like(matrix)
        out[measured] = matrix[measured] + more
        return out, offset + self.mean[~measured] @ matrix[~measured] - self.mean[measured] @ more

    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays by name."""
        return {"mean": self.mean, "loadings": self.loadings, "noise": self.noise}
