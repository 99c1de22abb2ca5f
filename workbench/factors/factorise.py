"""Factors of a gene x gene operator: rank-one parts, each with genes that it reads and genes that it writes.

A cell's expression x (a row over the panel) goes through an operator A as ``x @ A``. A factor takes one number from the
cell, ``x @ read``, and puts it, times its strength, on the genes of ``write``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from workbench.errors import EvaluationError, ShapeError
from workbench.seeds import key
from workbench.threads import one_thread

READ, WRITE = "read", "write"
SVD = "svd"
# Of a unit vector: under it a sum of cubes, or a difference of two loadings, is rounding.
_TIE = 1e-9


@dataclass(frozen=True)
class Factors:
    """A sum of rank-one parts of a gene x gene operator.

    Attributes
    ----------
    genes
        Panel, in the order of both axes of the operator.
    read
        Input loadings, columns of unit length; a cell's expression times these is what a factor takes from it.
    strength
        Not negative. Descending as the factorisations here give them; `hard_sparse` and `keep` leave the order as it is.
    write
        Output loadings, rows of unit length; where a factor puts what it took, times its strength.
    method
        Name of the factorisation, for tables: `svd_factors` writes ``svd``; `hard_sparse` adds its number of genes.
    names
        ``("f00", "f01", ...)`` unless given; a factor keeps its name when others are left out.
    """

    genes: tuple[str, ...]
    read: Float[np.ndarray, "gene factor"]
    strength: Float[np.ndarray, " factor"]
    write: Float[np.ndarray, "factor gene"]
    method: str
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        d, n = len(self.genes), len(self.strength)
        if self.read.shape != (d, n) or self.write.shape != (n, d) or len(self.names) not in (0, n):
            raise ShapeError(
                f"{n} factors of {d} genes need read loadings {(d, n)} and write loadings {(n, d)}; found "
                f"{self.read.shape} and {self.write.shape}, with {len(self.names)} names."
            )
        if not self.names:
            object.__setattr__(self, "names", tuple(f"f{i:02d}" for i in range(n)))

    @property
    def sides(self) -> dict[str, Float[np.ndarray, "gene factor"]]:
        """Loadings of both sides, ``read`` and ``write``, one column per factor."""
        return {READ: self.read, WRITE: self.write.T}

    def matrix(self) -> Float[np.ndarray, "gene gene"]:
        """The operator that the factors add up to."""
        return (self.read * self.strength) @ self.write

    def keep(self, which: Sequence[int]) -> Factors:
        """Some of the factors, under the names that they have.

        Parameters
        ----------
        which
            Their numbers, from 0, in the order wanted.

        Raises
        ------
        EvaluationError
            If a number is no factor's, or is named twice.
        """
        at = [int(i) for i in which]
        wrong = [i for i in at if not 0 <= i < len(self.strength)]
        if wrong or len(set(at)) < len(at):
            raise EvaluationError(
                f"Factors {at} cannot be kept: there are factors 0 to {len(self.strength) - 1}; name each once at most."
            )
        names = tuple(self.names[i] for i in at)
        return replace(self, read=self.read[:, at], strength=self.strength[at], write=self.write[at], names=names)

    @property
    def n_weights(self) -> int:
        """Loadings that are not zero, and one strength per factor. The paper counts loadings alone."""
        return int(np.count_nonzero(self.read) + np.count_nonzero(self.write) + len(self.strength))

    @property
    def n_bytes(self) -> int:
        """Size of the numbers on disk, without gene names, in the smaller of two layouts.

        Dense: every loading and strength as float32. Sparse: loadings that are not zero and strengths as float32, the
        place of each loading and how many there are per factor and side as int16 (int32 beyond 32,767 genes).
        """
        n, d = len(self.strength), len(self.genes)
        place = 2 if d <= np.iinfo(np.int16).max else 4
        loadings = self.n_weights - n
        return min(4 * (2 * n * d + n), (4 + place) * loadings + 4 * n + 2 * n * place)


def svd_factors(matrix: Float[np.ndarray, "gene gene"], genes: Sequence[str], n: int) -> Factors:
    """Truncated singular value decomposition: of all sums of n rank-one parts the nearest (Eckart & Young 1936).

    Factors with (nearly) equal strengths are not unique: any rotation among them is as good. Where it matters, see
    `workbench.factors.stability`.

    Parameters
    ----------
    matrix
        Operator, gene by gene; rows read, columns write.
    genes
        Names of the rows, which are also those of the columns; each once.
    n
        Number of factors, from 1 to the rank of the operator.

    Notes
    -----
    The sign of a factor is free, for read and write loadings together. It is chosen so that the cubes of the read
    loadings have a positive sum: the heavier tail is positive, whatever the order of genes and the BLAS. Where that sum
    is zero but for rounding, the largest loading by size is positive (ties: the first gene by name). The rank counts
    singular values above 10 sqrt(genes) x the rounding unit of the matrix's own precision x the largest.

    Raises
    ------
    ShapeError
        If the matrix is not genes x genes.
    EvaluationError
        If it holds NaN or is zero, or n is below 1 or above its rank.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.factors.factorise import svd_factors
    >>> svd_factors(np.array([[0.0, 3.0], [1.0, 0.0]]), ["A", "B"], n=2).strength
    array([3., 1.])
    """
    work = _checked(matrix, genes, n)
    with one_thread():
        u, s, vt = np.linalg.svd(work)
    _check_rank(s, matrix.dtype, n)
    return signed(genes, u[:, :n], s[:n], vt[:n], SVD)


def nmf_factors(matrix: Float[np.ndarray, "gene gene"], genes: Sequence[str], n: int, seed: int) -> Factors:
    """Non-negative matrix factorisation: parts that only add, for operators without negative entries (attention).

    Least squares by coordinate descent (scikit-learn), started from the singular vectors. Strength is the product of the
    lengths of both sides; factors come in descending strength and overlap, so strengths are no singular values.

    Parameters
    ----------
    matrix, genes
        As in `svd_factors`.
    n
        Number of factors, from 1 to the number of genes.
    seed
        Seed of the randomised decomposition that it starts from.

    Raises
    ------
    ShapeError, EvaluationError
        As in `svd_factors`; also if an entry is negative. Such an operator (qk, ov, drift) is not split into a positive
        and a negative part: factors of the one would cancel factors of the other, so that none could be read alone.
    """
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    work = _checked(matrix, genes, n)
    if (work < 0).any():
        raise EvaluationError(
            f"{(work < 0).mean():.0%} of the operator's entries are negative and NMF only adds; use svd_factors or "
            "sparse_pca_factors for operators with both signs."
        )
    scale = float(work.max())
    model = NMF(n, init="nndsvda", tol=1e-4, max_iter=500, random_state=key(seed, "nmf factors") % 2**32)
    with one_thread(), warnings.catch_warnings():
        # What is left after 500 rounds is far under the error of the factorisation itself.
        warnings.simplefilter("ignore", ConvergenceWarning)
        read = model.fit_transform(work / scale)
    return _normalised(genes, read, scale * model.components_, "nmf", "fewer factors")


def sparse_pca_factors(
    matrix: Float[np.ndarray, "gene gene"], genes: Sequence[str], n: int, seed: int, penalty: float = 0.5
) -> Factors:
    """Sparse principal components, not centred: few write genes per factor, read loadings dense.

    Minimises |A - U V|^2 / 2 + lambda |V|_1 over U with columns of unit length at most (Zou, Hastie & Tibshirani 2006 in
    the form of Mairal et al. 2009, as in scikit-learn's SparsePCA). The column means of A stay in: they are part of the
    operator. Loadings are shrunk by the penalty, so the error is above that of their support.

    Parameters
    ----------
    matrix, genes
        As in `svd_factors`.
    n
        Number of factors, from 1 to the rank of the operator.
    seed
        Seed of the directions that replace unused ones.
    penalty
        lambda over the typical loading (times strength) of the weakest factor asked for, which is the n-th singular
        value over sqrt(genes). Larger is sparser; too large empties factors.

    Raises
    ------
    ShapeError, EvaluationError
        As in `svd_factors`; also if a factor comes out empty, or the penalty is not positive.
    """
    from sklearn.decomposition import dict_learning

    work = _checked(matrix, genes, n)
    if not penalty > 0:
        raise EvaluationError(f"The penalty is {penalty}; give one above 0, or use svd_factors for none.")
    with one_thread():
        u, s, vt = np.linalg.svd(work)
        _check_rank(s, matrix.dtype, n)
        start = {"dict_init": u[:, :n].T, "code_init": vt[:n].T * s[:n] / s[0]}
        alpha, state = penalty * s[n - 1] / s[0] / np.sqrt(len(genes)), key(seed, "sparse pca factors") % 2**32
        options = {"max_iter": 30, "tol": 1e-4, "method": "cd", "random_state": state}
        write, read, _ = dict_learning(work.T / s[0], n, alpha=alpha, **start, **options)
    return _normalised(genes, read.T, s[0] * write.T, "sparse pca", "fewer factors or a smaller penalty")


def hard_sparse(factors: Factors, n_read: int = 60, n_write: int = 60) -> Factors:
    """Only the genes with the largest loadings by size, on each side of each factor.

    The loadings that stay are those of the factor: the unit vectors are scaled up and the strength down by the same, so
    the new part is the old one with the other entries set to zero. That strength is also the least-squares one of the
    new part for the old. Strengths are not refitted jointly to the operator (the paper does not say whether it does): a
    factor would then take over what others lost, and would no longer be the factor whose genes were read.

    Parameters
    ----------
    factors
        Factors to thin out, as a factorisation gives them; not changed.
    n_read, n_write
        Genes per factor and side; ties at the edge go by gene name.

    Raises
    ------
    EvaluationError
        If fewer than one or more than all genes are asked for.
    """
    d = len(factors.genes)
    if not (1 <= n_read <= d and 1 <= n_write <= d):
        raise EvaluationError(f"{n_read} read and {n_write} write genes cannot be kept of {d}; keep 1 to {d}.")
    sides = []
    for loadings, n in zip(factors.sides.values(), (n_read, n_write), strict=True):
        kept = np.zeros_like(loadings)
        top = by_size(loadings, factors.genes)[:n]
        np.put_along_axis(kept, top, np.take_along_axis(loadings, top, axis=0), axis=0)
        length = np.linalg.norm(kept, axis=0)
        sides.append((kept / length, length))
    (read, of_read), (write, of_write) = sides
    strength = factors.strength * of_read * of_write
    method = f"{factors.method}, hard sparse {n_read} + {n_write}"
    return replace(factors, read=read, strength=strength, write=write.T, method=method)


def top_genes(factors: Factors, n: int = 60) -> pd.DataFrame:
    """Genes with the largest loadings by size.

    Parameters
    ----------
    factors
        Factors of any method; their names are the first column of the table.
    n
        Genes per factor and side at most; loadings of zero are left out.

    Returns
    -------
    pandas.DataFrame
        ``factor``, ``side`` ("read" or "write"), ``gene``, ``loading``, ``rank`` (1 is the largest by size).
    """
    genes, rows = np.array(factors.genes), []
    for side, loadings in factors.sides.items():
        order = by_size(loadings, factors.genes)[:n]
        for f, name in enumerate(factors.names):
            top = order[loadings[order[:, f], f] != 0, f]
            place = {"factor": name, "side": side, "gene": genes[top], "loading": loadings[top, f]}
            rows.append(pd.DataFrame({**place, "rank": np.arange(1, len(top) + 1)}))
    return pd.concat(rows, ignore_index=True).sort_values(["factor", "side", "rank"], ignore_index=True)


def relative_error(matrix: Float[np.ndarray, "gene gene"], factors: Factors) -> float:
    """Length (Frobenius) of what the factors leave of an operator, over that of the operator.

    Parameters
    ----------
    matrix
        Operator that the factors stand for, gene by gene.
    factors
        Factors of the same genes, in the same order.

    Raises
    ------
    ShapeError, EvaluationError
        If the shapes differ, or the operator is zero or holds NaN.
    """
    work = _checked(matrix, factors.genes, 1)
    return float(np.linalg.norm(work - factors.matrix()) / np.linalg.norm(work))


def by_size(loadings: Float[np.ndarray, "gene factor"], genes: Sequence[str]) -> Int[np.ndarray, "gene factor"]:
    """Places of the genes of each factor, the largest loading by size first, ties by gene name.

    Parameters
    ----------
    loadings
        One side of some factors: `Factors.read`, or `Factors.write` transposed.
    genes
        Names of the rows, by which equal loadings are ordered.
    """
    named = np.argsort(np.array(genes, dtype=str), kind="stable")
    return named[np.argsort(-np.abs(loadings[named]), axis=0, kind="stable")]


def rank_floor(largest: float, n_genes: int, dtype: np.dtype) -> float:
    """Singular values up to this count for nothing.

    Parameters
    ----------
    largest
        Largest singular value of the operator; the floor is proportional to it.
    n_genes
        Genes of the panel; the floor grows with their square root.
    dtype
        Number type that the operator was computed in, whose rounding unit is the scale of the floor.
    """
    return float(10 * np.sqrt(n_genes) * np.finfo(dtype).eps * largest)


def _checked(matrix: np.ndarray, genes: Sequence[str], n: int) -> np.ndarray:
    d = len(genes)
    if matrix.shape != (d, d):
        raise ShapeError(
            f"{d} genes need an operator of {d} x {d}; found {matrix.shape}. Take a feature map of several blocks apart "
            "and factorise each block."
        )
    if len(set(genes)) < d:
        raise EvaluationError(f"{d - len(set(genes))} of {d} genes are named twice; give each gene one row.")
    work = np.asarray(matrix, dtype=np.float64)
    if not np.isfinite(work).all():
        raise EvaluationError(
            f"{(~np.isfinite(work)).sum()} entries of the operator are NaN or infinite; set them first."
        )
    if not work.any():
        raise EvaluationError("The operator is zero everywhere (rank 0): there is no factor in it.")
    if not 1 <= n <= d:
        raise EvaluationError(f"{n} factors of a {d} x {d} operator cannot be made; ask for 1 to {d}.")
    return work


def _check_rank(s: np.ndarray, dtype: np.dtype, n: int) -> None:
    rank = int((s > rank_floor(s[0], len(s), dtype)).sum())
    if n > rank:
        raise EvaluationError(f"{n} factors were asked for and the operator has rank {rank}; ask for {rank} at most.")


def _normalised(genes: Sequence[str], read: np.ndarray, write: np.ndarray, method: str, mend: str) -> Factors:
    """Unit sides, descending strengths."""
    of_read, of_write = np.linalg.norm(read, axis=0), np.linalg.norm(write, axis=1)
    strength = of_read * of_write
    empty = int((strength <= 0).sum())
    if empty:
        raise EvaluationError(f"{empty} of {len(strength)} factors came out empty ({method}); ask for {mend}.")
    order = np.argsort(-strength, kind="stable")
    return signed(genes, (read / of_read)[:, order], strength[order], (write / of_write[:, None])[order], method)


def signed(genes: Sequence[str], read: np.ndarray, strength: np.ndarray, write: np.ndarray, method: str) -> Factors:
    """Factors with the signs that `svd_factors` describes.

    Parameters
    ----------
    genes, read, strength, write, method
        As in `Factors`, each factor with any sign.
    """
    cubes = (read**3).sum(0)
    sign = np.sign(cubes)
    for f in np.flatnonzero(np.abs(cubes) <= _TIE):
        size = np.abs(read[:, f])
        first = min(np.flatnonzero(size >= size.max() - _TIE), key=lambda i: genes[int(i)])
        sign[f] = np.sign(read[first, f])
    # Adding zero turns a signed zero into a plain one.
    return Factors(tuple(genes), read * sign + 0.0, strength, write * sign[:, None] + 0.0, method)
