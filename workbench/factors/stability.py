"""Which factors of an attention operator, and which of their genes, another sample of cells would give again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Real
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from scipy.stats import hypergeom

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.factorise import READ, SVD, WRITE, Factors, by_size
from workbench.seeds import generator
from workbench.stats import over_few
from workbench.threads import one_thread


@dataclass(frozen=True)
class Stability:
    """What a bootstrap over groups of cells says of factors.

    Attributes
    ----------
    factors
        One row per ``factor`` and ``side``. ``jaccard``: overlap of its top genes with those of the matched factor, mean
        over draws, with ``low`` and ``high`` (2.5 and 97.5 %). ``null_jaccard``: expected of two random sets of genes.
        ``other_jaccard``: the best overlap with a factor of the draw that is *not* the matched one, mean over draws, and
        ``beats_other``: share of draws in which the matched one is above it; where these are poor, the top genes are
        those of any factor. ``cosine`` of the loadings with the matched ones, mean over draws. ``strength`` with
        ``strength_low`` and ``strength_high``, a 95 % interval of the strength over all groups there could be. ``n_draws``, ``n_groups``.
    genes
        One row per ``factor``, ``side`` and ``gene`` that is among the top genes of the reference or of any draw:
        ``loading`` and ``rank`` in the reference (1 is the largest by size), ``share`` of draws in which it is among
        the top genes of the matched factor, ``sign``: share of draws in which its loading there has the same sign.
    """

    factors: pd.DataFrame
    genes: pd.DataFrame


def stability(
    sums: Float[np.ndarray, "group gene gene"],
    counts: Real[np.ndarray, "group gene gene"],
    genes: Sequence[str],
    reference: Factors,
    *,
    n_top: int = 60,
    draws: int = 50,
    seed: int,
) -> Stability:
    """Bootstrap over groups of cells: factorise again, match, and compare genes.

    A draw takes as many groups as there are, with replacement, divides their summed sums by their summed counts (0 where
    a pair was never seen) and takes as many singular vectors as the reference has factors. Factors are matched one to
    one (Hungarian algorithm) by |cosine of read loadings| x |cosine of write loadings|, and turned to the sign of the
    reference. The last factors look less stable than they are where their strength is near that of the next one, which
    is cut off; so do factors of nearly equal strength, which rotate into each other.

    Groups should be the independent units: donors where there are several. With random groups of cells the intervals are
    those of drawing cells again from the same donors.

    Sampling noise adds to the squares of singular values, and a draw adds nearly as much again. So what draws add is taken off, and
    the interval is as long as `stats.over_few` makes it; where noise is large, it lies below the strength. That of the overlap is the
    range of the draws. How often both hold: `experiments/calibration_others.py`.

    Parameters
    ----------
    sums, counts
        Sum of one head's attention, and number of cells, per pair of genes and group of cells (`GenePairSink` with
        groups).
    genes
        Panel: names of both gene axes of `sums`, as in `reference`.
    reference
        `svd_factors` of the operator of all groups.
    n_top
        Genes per factor and side that are compared; 1 to all of the panel.
    draws
        Draws of the bootstrap, 1 or more. Each takes one eigendecomposition of a gene x gene matrix.
    seed
        Seed of the draws of groups; nothing else is random.

    Raises
    ------
    ShapeError
        If the arrays do not fit the genes.
    EvaluationError
        If the reference has other genes or was not made by `svd_factors`, or there are fewer than two groups, no draws
        or not enough genes.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.factors.factorise import svd_factors
    >>> from workbench.factors.stability import stability
    >>> groups = np.array([np.diag([3.0, 1.0, 0.0]), np.diag([3.2, 0.8, 0.0]), np.diag([2.8, 1.2, 0.0])])
    >>> reference = svd_factors(groups.mean(0), ["A", "B", "C"], n=2)
    >>> found = stability(groups, np.ones_like(groups), ["A", "B", "C"], reference, n_top=1, draws=20, seed=0)
    >>> found.factors[["factor", "side", "jaccard", "strength"]]
      factor   side  jaccard  strength
    0    f00   read      1.0       3.0
    1    f00  write      1.0       3.0
    2    f01   read      1.0       1.0
    3    f01  write      1.0       1.0
    """
    n_groups, d, n = len(sums), len(genes), len(reference.strength)
    if sums.shape != (n_groups, d, d) or counts.shape != sums.shape:
        raise ShapeError(f"{d} genes need sums and counts of (group, {d}, {d}); found {sums.shape} and {counts.shape}.")
    if tuple(genes) != reference.genes:
        raise EvaluationError(
            f"The reference has factors of another panel ({len(reference.genes)} genes, not these {d} in this order); "
            "factorise the operator of these groups."
        )
    if reference.method != SVD:
        raise EvaluationError(f"The reference was made by '{reference.method}'; only svd_factors can be drawn again.")
    if n_groups < 2 or draws < 1 or not 1 <= n_top <= d:
        raise EvaluationError(
            f"{n_groups} groups, {draws} draws and {n_top} top genes of {d} were given. Give two groups, one draw and one gene "
            "at least, and no more top genes than genes."
        )
    rng = generator(seed, "stability of factors")
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), draws)
    tally = {side: _Tally(loadings, reference.genes, n_top, draws) for side, loadings in reference.sides.items()}
    strengths = np.empty((draws, n))
    with one_thread():
        for draw, weight in enumerate(weights):
            read, strength, write = _leading(_mean(sums, counts, weight), n)
            cosine = reference.read.T @ read, reference.write @ write.T
            _, match = linear_sum_assignment(-np.abs(cosine[0] * cosine[1]))
            at = np.arange(n)
            sign = np.where(cosine[0][at, match] + cosine[1][at, match] < 0, -1.0, 1.0)
            strengths[draw] = strength[match]
            tally[READ].add(draw, read, match, sign)
            tally[WRITE].add(draw, write.T, match, sign)
    # Two sets of n_top share k genes with hypergeometric probability, and then n_top * 2 - k together.
    k = np.arange(n_top + 1)
    chance = float((hypergeom.pmf(k, d, n_top, n_top) * k / (2 * n_top - k)).sum())
    low, high = np.array(
        [_strength_interval(*one, n_groups) for one in zip(reference.strength, strengths.T, strict=True)]
    ).T
    fixed: dict[str, Any] = {"strength": reference.strength, "strength_low": low, "strength_high": high}
    fixed |= {"n_draws": draws, "n_groups": n_groups}
    named = {side: {"factor": reference.names, "side": side} for side in tally}
    by_factor = [pd.DataFrame({**named[side], **found.summary(chance), **fixed}) for side, found in tally.items()]
    by_gene = [found.genes(reference.names, side) for side, found in tally.items()]
    return Stability(
        pd.concat(by_factor).sort_values(["factor", "side"], ignore_index=True),
        pd.concat(by_gene).sort_values(["factor", "side", "rank"], ignore_index=True),
    )


def _strength_interval(strength: float, draws: Float[np.ndarray, " draw"], n_groups: int) -> tuple[float, float]:
    """Interval of a strength without what noise adds to it."""
    # Squares of singular values add up, so that draws tell what noise has added to that of the data.
    squares, own = draws**2, strength**2
    centre = own - (squares.mean() - own) * n_groups / (n_groups - 1)
    low, high = np.sqrt(np.maximum(over_few(centre, centre - (squares - squares.mean()), n_groups), 0))
    return float(low), float(high)


class _Tally:
    """What is counted over draws, for one side of the reference."""

    def __init__(self, loadings: np.ndarray, panel: tuple[str, ...], n_top: int, draws: int) -> None:
        d, n = loadings.shape
        self.loadings, self.panel, self.n_top = loadings, panel, n_top
        self.order = by_size(loadings, panel)
        self.top = _members(self.order, n_top)
        self.jaccard, self.other, self.cosine = (np.empty((draws, n)) for _ in range(3))
        self.seen, self.agree = np.zeros((d, n)), np.zeros((d, n))

    def add(self, draw: int, loadings: np.ndarray, match: Int[np.ndarray, " factor"], sign: np.ndarray) -> None:
        """Count one draw; `match` is the factor of the draw, and `sign` its turn, for each of the reference."""
        n = len(match)
        top = _members(by_size(loadings, self.panel), self.n_top)[:, match]
        turned = loadings[:, match] * sign
        both = self.top.T.astype(np.float64) @ top
        overlap = both / (2 * self.n_top - both)
        self.jaccard[draw] = np.diag(overlap)
        # With one factor there is no other: nothing overlaps.
        self.other[draw] = np.where(np.eye(n, dtype=bool), 0, overlap).max(1)
        self.cosine[draw] = (self.loadings * turned).sum(0)
        self.seen += top
        self.agree += np.sign(turned) == np.sign(self.loadings)

    def summary(self, chance: float) -> dict[str, Any]:
        """Columns per factor."""
        low, high = np.quantile(self.jaccard, [0.025, 0.975], axis=0)
        return {
            **{"jaccard": self.jaccard.mean(0), "low": low, "high": high, "null_jaccard": chance},
            "other_jaccard": self.other.mean(0),
            "beats_other": (self.jaccard > self.other).mean(0),
            "cosine": self.cosine.mean(0),
        }

    def genes(self, names: tuple[str, ...], side: str) -> pd.DataFrame:
        """Rows per factor and gene."""
        draws, genes, rows = len(self.jaccard), np.array(self.panel), []
        for f, name in enumerate(names):
            ranked = self.order[:, f]
            rank = np.flatnonzero(self.top[ranked, f] | (self.seen[ranked, f] > 0))
            at = ranked[rank]
            found = {"factor": name, "side": side, "gene": genes[at], "loading": self.loadings[at, f], "rank": rank + 1}
            shares = {"share": self.seen[at, f] / draws, "sign": self.agree[at, f] / draws}
            rows.append(pd.DataFrame({**found, **shares}))
        return pd.concat(rows, ignore_index=True)


def _members(order: np.ndarray, n_top: int) -> np.ndarray:
    """Whether each gene is among the first n_top, (gene, factor)."""
    inside = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(inside, order[:n_top], True, axis=0)
    return inside


def _mean(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total, cells = np.zeros(sums.shape[1:]), np.zeros(sums.shape[1:])
    for group in np.flatnonzero(weights):
        total += weights[group] * sums[group]
        cells += weights[group] * counts[group]
    return total / np.maximum(cells, 1)


def _leading(matrix: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading singular vectors and values; signs as they come. Of a rank below n, the rest has strength 0 or rounding."""
    # From the eigenvectors of A^T A: no random start, and quick whatever n. Singular values under 1e-8 of the largest are
    # lost, far under what a mean over cells can tell.
    d = len(matrix)
    vectors = eigh(matrix.T @ matrix, subset_by_index=[d - n, d - 1])[1][:, ::-1]
    image = matrix @ vectors
    strength = np.linalg.norm(image, axis=0)
    return image / np.maximum(strength, np.finfo(np.float64).tiny), strength, vectors.T
