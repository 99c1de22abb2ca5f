"""What gene sets and edge lists add to expression level and family on the axes of gene vectors, beside matched genes and rewired edges.

Genes of a set are expressed alike, detected alike and of one family more often than genes drawn at random, and gene vectors hold all
of that: under a shuffle of genes nearly every set is found. Here covariates are regressed out of the coordinates first, and what is
left of a set is laid beside sets of as many genes that are alike in their covariates; what is left of an edge list, beside lists in which
every gene has as many edges, and as many lead between genes of two levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.stats import norm

from workbench.geometry.gene_covariates import GeneDesign
from workbench.geometry.gene_vectors import GeneAxes
from workbench.seeds import generator

POSITION, NEARNESS = "position on axis", "nearness"
COLUMNS = (
    *("layer", "source", "measure", "axis", "set", "kind", "statistic", "raw_statistic", "null_mean", "null_sd"),
    *("p", "p_shuffled", "n", "draws"),
)
# Drawing stops when every test of a set has so many draws at least as large: its p is then known well enough.
_AT_ONCE, _ENOUGH = 500, 20
_TINY = 1e-9


@dataclass(frozen=True)
class Placed:
    """Genes on the axes of all layers and sources, side by side.

    Attributes
    ----------
    labels
        Layer (NaN for the gene table), source and number of axes of each block of columns.
    raw, position
        Coordinates as they are, and with covariates regressed out; of standard deviation 1, or 0 where nothing is left.
    raw_direction, direction
        The same for the direction of a gene in the space of a block's axes, at true proportions: of length 1 within each block.
    """

    labels: tuple[tuple[float, str, int], ...]
    raw: Float[np.ndarray, "gene column"]
    position: Float[np.ndarray, "gene column"]
    raw_direction: Float[np.ndarray, "gene column"]
    direction: Float[np.ndarray, "gene column"]

    @property
    def starts(self) -> Int[np.ndarray, " block"]:
        """First column of each block."""
        return np.concatenate([[0], np.cumsum([n for *_, n in self.labels])])[:-1].astype(int)

    def rows(self) -> Iterator[dict[str, object]]:
        """What each test is of: first the columns, axes counted from 1, then the blocks, as axis 0."""
        for layer, source, n in self.labels:
            for axis in range(1, n + 1):
                yield {"layer": layer, "source": source, "measure": POSITION, "axis": axis}
        for layer, source, _ in self.labels:
            yield {"layer": layer, "source": source, "measure": NEARNESS, "axis": 0}

    def by_block(self, values: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row block"]:
        """Sums over the columns of each block.

        Parameters
        ----------
        values
            Numbers with the columns of `position`.
        """
        return np.add.reduceat(values, self.starts, axis=1)


def place(blocks: Sequence[tuple[float, str, GeneAxes]], design: GeneDesign) -> Placed:
    """Genes on the axes of several layers and sources, with and without what the covariates explain.

    Parameters
    ----------
    blocks
        Layer, source and axes; all of the same genes.
    design
        Regression whose residuals are taken.
    """
    labels = tuple((layer, source, axes.coordinates.shape[1]) for layer, source, axes in blocks)
    raw = [axes.coordinates for *_, axes in blocks]
    points = [axes.points for *_, axes in blocks]
    left = [_scaled(design.residuals(one)) for one in raw]
    turned = [_unit(design.residuals(one)) for one in points]
    return Placed(labels, np.hstack(raw), np.hstack(left), np.hstack([_unit(p) for p in points]), np.hstack(turned))


def set_tests(
    placed: Placed,
    sets: Mapping[str, Int[np.ndarray, " member"]],
    strata: Int[np.ndarray, " gene"],
    *,
    kind: str,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Where the genes of each set lie on each axis, and how near to each other, beside matched genes.

    - Position: mean over the set of the coordinate that the covariates leave, in standard deviations over all genes. Two-sided.
    - Nearness (axis 0): mean cosine between two genes of the set in the space of all axes, covariates regressed out. One-sided.

    A null draw has as many genes of each stratum as the set has, without replacement. p is (1 + draws at least as far from the null mean)
    / (1 + draws); drawing stops before `draws` where all tests of a set have 20 such draws. NaN where strata hold nobody but the set.

    Parameters
    ----------
    placed
        Genes on all axes, from `place`.
    sets
        Name -> rows of its genes, each once, two or more.
    strata
        Stratum of each gene, from `make_strata`.
    kind
        What sort of sets these are, for the table.
    draws
        Draws of matched genes for each set, at most.
    seed
        Seed of the draws, with the name of the set.

    Returns
    -------
    DataFrame
        One row per block, axis and set: ``layer``, ``source``, ``measure``, ``axis`` (from 1; 0 for nearness), ``set``, ``kind``,
        ``statistic``, ``raw_statistic`` (covariates left in), ``null_mean``, ``null_sd``, ``p``, ``p_shuffled`` (of the raw position under a plain
        shuffle of genes, by its known mean and variance; too small, see the module), ``n`` (genes of the set), ``draws``.
    """
    about, parts = list(placed.rows()), []
    for name, rows in sets.items():
        observed = _of_set(placed, placed.position[rows].mean(0)[None], placed.direction[rows].mean(0)[None], len(rows))
        raw = _of_set(placed, placed.raw[rows].mean(0)[None], placed.raw_direction[rows].mean(0)[None], len(rows))
        mean, _ = matched_moments(placed.position, rows, strata)
        null = NullCounts(observed[0], len(mean), mean)
        for start in range(0, draws, _AT_ONCE):
            rng = generator(seed, "matched genes", kind, name, str(start))
            drawn = matched_draws(rows, strata, min(_AT_ONCE, draws - start), rng)
            null.add(_of_set(placed, _means(drawn, placed.position), _means(drawn, placed.direction), len(rows)))
            if null.enough:
                break
        p = null.p()
        _, sd = matched_moments(placed.raw, rows, np.zeros(len(strata), dtype=int))
        shuffled = np.full(len(p), np.nan)
        shuffled[: len(mean)] = 2 * norm.sf(np.abs(raw[0, : len(mean)]) / np.maximum(sd, _TINY))
        found: dict[str, Any] = {
            "statistic": observed[0],
            "raw_statistic": raw[0],
            "null_mean": null.mean,
            "null_sd": null.sd,
            "p": p,
        }
        more: dict[str, Any] = {"p_shuffled": shuffled, "set": name, "kind": kind, "n": len(rows), "draws": null.n}
        parts.append(pd.DataFrame(about).assign(**found, **more))
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)] if parts else pd.DataFrame(columns=list(COLUMNS))


def matched_draws(
    rows: Int[np.ndarray, " member"], strata: Int[np.ndarray, " gene"], n: int, rng: np.random.Generator
) -> Int[np.ndarray, "draw member"]:
    """Genes that are drawn in the place of a set: as many of each stratum, without replacement, the set's own among them.

    Floyd's algorithm (Bentley & Floyd, CACM 30:754, 1987), for all draws at once.

    Parameters
    ----------
    rows
        Rows of the genes of the set.
    strata
        Stratum of each gene, numbered from 0.
    n
        Draws that are wanted, 1 or more.
    rng
        Generator of the random numbers.
    """
    parts = []
    wanted, sizes = np.unique(strata[rows], return_counts=True)
    for stratum, k in zip(wanted.tolist(), sizes.tolist(), strict=True):
        pool = np.flatnonzero(strata == stratum)
        chosen = np.full((n, k), -1)
        for at, last in enumerate(range(len(pool) - k, len(pool))):
            number = rng.integers(last + 1, size=n)
            taken = (chosen == number[:, None]).any(1)
            chosen[:, at] = np.where(taken, last, number)
        parts.append(pool[chosen])
    return np.hstack(parts)


def matched_moments(
    values: Float[np.ndarray, "gene column"], rows: Int[np.ndarray, " member"], strata: Int[np.ndarray, " gene"]
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """Mean and standard deviation of a set's mean value under draws of matched genes, in closed form.

    That of stratified sampling from a finite population without replacement (Cochran, Sampling Techniques, 1977, chapter 5).

    Parameters
    ----------
    values
        One row per gene, any columns.
    rows, strata
        As in `matched_draws`.
    """
    wanted, sizes = np.unique(strata[rows], return_counts=True)
    mean, variance = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for stratum, k in zip(wanted.tolist(), sizes.tolist(), strict=True):
        pool = values[strata == stratum]
        share = k / len(rows)
        mean += share * pool.mean(0)
        if k < len(pool):
            variance += share**2 * (1 - k / len(pool)) * pool.var(0, ddof=1) / k
    return mean, np.sqrt(variance)


class NullCounts:
    """Counts over draws of statistics that are at least as far out as the observed ones.

    Parameters
    ----------
    observed
        Statistic of the data, one per test.
    two_sided
        So many tests, the first ones, look at the distance from a centre; the others at large values.
    centre
        Centre of each two-sided test.
    """

    def __init__(self, observed: np.ndarray, two_sided: int, centre: np.ndarray) -> None:
        self.observed, self.two_sided, self.centre, self.n = observed.copy(), two_sided, centre, 0
        self.observed[:two_sided] = np.abs(observed[:two_sided] - centre)
        self.as_far, self._sum, self._square = (np.zeros(len(observed)) for _ in range(3))

    def add(self, drawn: Float[np.ndarray, "draw test"]) -> None:
        """Count more draws.

        Parameters
        ----------
        drawn
            Statistics of each draw, in the order of the tests.
        """
        self.n += len(drawn)
        self._sum += drawn.sum(0)
        self._square += (drawn**2).sum(0)
        far = drawn.copy()
        far[:, : self.two_sided] = np.abs(far[:, : self.two_sided] - self.centre)
        self.as_far += (far >= self.observed - _TINY).sum(0)

    @property
    def enough(self) -> bool:
        """Whether every test has 20 draws as far out, so that more of them would say little."""
        return bool((self.as_far >= _ENOUGH).all())

    @property
    def mean(self) -> Float[np.ndarray, " test"]:
        """Mean over the draws so far."""
        return self._sum / self.n

    @property
    def sd(self) -> Float[np.ndarray, " test"]:
        """Standard deviation over the draws so far."""
        return np.sqrt(np.maximum(self._square / self.n - self.mean**2, 0))

    def p(self) -> Float[np.ndarray, " test"]:
        """Share of draws as far out, by test; NaN where no draw differs from another."""
        return np.where(self.sd > 1e-7, (1 + self.as_far) / (1 + self.n), np.nan)


def _of_set(placed: Placed, position: np.ndarray, direction: np.ndarray, k: int) -> np.ndarray:
    """Mean coordinates, then of each block the mean cosine of two genes, from the means over k genes."""
    # |sum of k unit vectors|^2 is k, where none is of length 0, and twice the sum of the cosines of all pairs.
    cosine = (k**2 * placed.by_block(direction**2) - k) / (k * (k - 1))
    return np.hstack([position, cosine])


def _means(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    n, k = drawn.shape
    pick = sp.csr_matrix((np.full(n * k, 1 / k), drawn.ravel(), np.arange(0, n * k + 1, k)), shape=(n, len(values)))
    return pick @ values


def _scaled(residuals: np.ndarray) -> np.ndarray:
    spread = residuals.std(0)
    return np.where(spread > 1e-6, residuals / np.maximum(spread, _TINY), 0)


def _unit(points: np.ndarray) -> np.ndarray:
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), _TINY)
