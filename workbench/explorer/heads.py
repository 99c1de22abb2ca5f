"""What the explorer says of single heads: gene pairs of its operator, factors, and gene programs of these."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import ArpackError, svds

from workbench.errors import EvaluationError
from workbench.factors.factorise import SVD, Factors, by_size, rank_floor, signed, svd_factors
from workbench.factors.gene_sets import load_gene_sets, on_panel
from workbench.factors.programs import gene_lists, indicators, over_representation
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg
from workbench.threads import one_thread

N_PAIRS, N_FACTORS, N_GENES = 12, 6, 10
# From here on the whole decomposition of a head takes long.
MANY_GENES = 400
# A mean over fewer cells than this is mostly the noise of these cells.
MIN_CELLS = 10
# Genes of a list that is tested, hits that are shown of it, and shufflings of the gene names.
N_LIST, N_HITS, NULL_DRAWS, ALPHA = 60, 3, 20, 0.05
# Head, factor, side, sign, and genes by rank.
_List: TypeAlias = tuple[int, int, str, str, np.ndarray]


def short(value: float, digits: int = 4) -> float | None:
    """A number with few digits, so that a page stays small; None where there is none.

    Parameters
    ----------
    value
        Any number; NaN and infinity become None.
    digits
        Significant digits that are kept, 1 or more.

    Examples
    --------
    >>> from workbench.explorer.heads import short
    >>> short(0.123456), short(float("nan"))
    (0.1235, None)
    """
    return float(f"{float(value):.{digits}g}") if np.isfinite(value) else None


def strongest_pairs(
    matrix: Float[np.ndarray, "gene gene"],
    counts: Float[np.ndarray, "gene gene"] | None = None,
    n: int = N_PAIRS,
    min_cells: int = MIN_CELLS,
) -> dict[str, Any]:
    """Pairs of different genes with the largest values by size, as they are and less what all query genes share.

    Parameters
    ----------
    matrix
        Operator: query gene by key gene.
    counts
        Cells in which both genes are tokens; None for an operator of the weights alone.
    n
        Pairs of each kind, at most.
    min_cells
        Pairs that fewer cells have are left out; without `counts` it has no effect.

    Returns
    -------
    dict
        ``n_pairs`` (that could be among them); ``raw`` and ``specific``: lists of query, key (numbers of genes), value and
        cells (None without `counts`). ``specific`` values are differences from the mean of the key gene's column over
        the pairs that are not left out.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.explorer.heads import strongest_pairs
    >>> strongest_pairs(np.array([[9.0, 2.0, 0.0], [0.0, 0.0, -5.0], [1.0, 0.0, 0.0]]), n=2)["raw"]
    [[1, 2, -5.0, None], [0, 1, 2.0, None]]
    """
    wanted = ~np.eye(len(matrix), dtype=bool)
    if counts is not None:
        wanted &= counts >= min_cells
    values = np.where(wanted, matrix, 0).astype(np.float64)
    mean = values.sum(0) / np.maximum(wanted.sum(0), 1)
    found: dict[str, Any] = {"n_pairs": int(wanted.sum())}
    for name, one in (("raw", values), ("specific", np.where(wanted, values - mean, 0))):
        size = np.where(wanted, np.abs(one), -1).ravel()
        top = [int(at) for at in np.argsort(-size, kind="stable")[:n] if size[at] >= 0]
        found[name] = [
            [*divmod(at, len(matrix)), short(one.flat[at]), None if counts is None else int(counts.flat[at])]
            for at in top
        ]
    return found


def head_factors(matrix: Float[np.ndarray, "gene gene"], genes: Sequence[str], n: int = N_FACTORS) -> Factors | str:
    """The first SVD factors of an operator, as many as its rank allows; a sentence where there is none.

    Of many genes only these factors are computed, by Lanczos iterations from a fixed start (ARPACK, Lehoucq, Sorensen &
    Yang 1998), to the precision of the numbers; they are those of `svd_factors` but for rounding.

    Parameters
    ----------
    matrix
        Operator of one head, gene by gene; rows read, columns write.
    genes
        Names of the rows and columns, each once.
    n
        Factors wanted; fewer come where the rank is lower.
    """
    if len(genes) >= MANY_GENES and np.isfinite(matrix).all() and matrix.any():
        with contextlib.suppress(ArpackError):
            return _leading(matrix, genes, n)
    said = ""
    for wanted in range(min(n, len(genes)), 0, -1):
        try:
            return svd_factors(matrix, genes, wanted)
        except EvaluationError as error:
            said = str(error)
    return said


def _leading(matrix: np.ndarray, genes: Sequence[str], n: int) -> Factors:
    # Not a constant vector, which the factors of a centred operator are at right angles to.
    start = generator(0, "explorer factors", str(len(genes))).standard_normal(len(genes))
    with one_thread():
        u, s, vt = svds(np.asarray(matrix, dtype=np.float64), k=n, v0=start, solver="arpack")
    order = np.argsort(-s, kind="stable")
    order = order[s[order] > rank_floor(s.max(), len(genes), matrix.dtype)]
    return signed(genes, u[:, order], s[order], vt[order], SVD)


@dataclass(frozen=True)
class Programs:
    """Gene programs of the factors of many heads, tested together.

    Attributes
    ----------
    summary
        JSON-ready: ``collection``, ``terms`` (name, source, genes on the panel), ``n_tests``, ``n_list``, ``n_hits``, ``null``.
    hits
        By head: number of tests, of those with q <= 0.05, and its smallest and largest number over the shufflings.
    shown
        By head, factor and side: ``n`` (tests), ``hits``, ``least`` (smallest q), ``rows``: the hits with the smallest p, at
        most three: term, direction, overlap, genes of the list, p, q, overlapping genes by rank.
    why
        Why there are none; empty where there are some.
    """

    summary: dict[str, Any]
    hits: dict[int, list[int]]
    shown: dict[tuple[int, int, str], dict[str, Any]]
    why: str = ""


def programs_of(
    factors: Sequence[Factors | str], genes: Sequence[str], collection: str = "hematopoiesis", seed: int = 0
) -> Programs:
    """Over-representation of gene sets in the genes that factors read and write, the panel being the urn.

    Per factor, side and direction the 60 genes with the largest loadings of that sign are one list, as in `enrich`.
    Benjamini-Hochberg over all lists of all heads, since a reader looks through all of them. The null hands the gene names
    out anew, once per draw for all lists. Both take genes to be independent, which those of a program are not, so that random
    directions have hits here; `enrich` compares with such directions, and what a run says of programs comes from it.

    Parameters
    ----------
    factors
        Factors of each head; a sentence where there are none.
    genes
        Panel that all factors are of, in the order of their loadings.
    collection
        Gene sets: a shipped name or the path of a GMT file, see `load_gene_sets`.
    seed
        Seed of the shufflings of gene names in the null.
    """
    names = np.array(genes, dtype=str)
    try:
        kept, terms = on_panel(load_gene_sets(collection), list(genes))
    except EvaluationError as error:
        return Programs({}, {}, {}, str(error))
    lists = _lists(factors, names)
    if not kept.sets or not lists:
        why = "no factor was made" if kept.sets else f"no program of '{collection}' has three genes on the panel"
        return Programs({}, {}, {}, why)
    inside = indicators(lists, len(names))
    members = np.array([np.isin(names, genes) for genes in kept.sets.values()])
    p, _, overlap = over_representation(inside, members)
    q = benjamini_hochberg(p.ravel()).reshape(p.shape)
    of_head = np.array([head for head, *_ in lists])
    null = _null(inside, members, seed)
    hits = {}
    for head in sorted(set(of_head.tolist())):
        own = of_head == head
        drawn = [int(hit[own].sum()) for hit in null]
        hits[head] = [int(own.sum()) * len(members), int((q[own] <= ALPHA).sum()), min(drawn), max(drawn)]
    totals = [int(hit.sum()) for hit in null]
    sizes = zip(kept.sets, members.sum(1).tolist(), strict=True)
    shown = [{"term": term, "source": kept.sources[term], "n": n} for term, n in sizes]
    summary: dict[str, Any] = {"collection": collection, "terms": shown, "n_left_out": int((~terms["kept"]).sum())}
    summary |= {"n_genes": len(names), "n_list": N_LIST, "n_tests": int(p.size), "n_hits": int((q <= ALPHA).sum())}
    chance = {"mean": short(float(np.mean(totals))), "low": min(totals), "high": max(totals)}
    summary["null"] = {"draws": len(null), **chance}
    return Programs(summary, hits, _shown(lists, p, q, overlap, members))


def described(matrix: Float[np.ndarray, "gene gene"], factors: Factors | str) -> list[dict[str, Any]]:
    """Factors as the explorer shows them, without their programs.

    Parameters
    ----------
    matrix
        Operator that the factors are of; its sum of squares is what shares are of.
    factors
        Factors from `head_factors`; a sentence instead gives no rows.

    Returns
    -------
    list of dict
        ``name``, ``strength``, ``share`` (of the operator's sum of squares), ``read`` and ``write``: numbers of genes and
        loadings, the largest by size first.
    """
    if isinstance(factors, str):
        return []
    total = float(np.square(matrix, dtype=np.float64).sum())
    rows = []
    for f, name in enumerate(factors.names):
        strength = float(factors.strength[f])
        row: dict[str, Any] = {"name": name, "strength": short(strength), "share": short(strength**2 / total, 3)}
        for side, every in factors.sides.items():
            loadings = every[:, f]
            top = by_size(loadings[:, None], factors.genes)[:N_GENES, 0]
            row[side] = [[int(gene), short(loadings[gene], 3)] for gene in top if loadings[gene]]
        rows.append(row)
    return rows


def _lists(factors: Sequence[Factors | str], names: np.ndarray) -> list[_List]:
    """Head, factor, side, direction and genes by rank of every list; equal loadings go by gene name."""
    named, lists = np.argsort(names, kind="stable"), []
    for head, one in enumerate(factors):
        sides = {} if isinstance(one, str) else {side: loadings[named] for side, loadings in one.sides.items()}
        lists += [(head, f, side, sign, named[top]) for side, f, sign, top in gene_lists(sides, N_LIST)]
    return lists


def _null(inside: np.ndarray, members: np.ndarray, seed: int) -> list[np.ndarray]:
    found = []
    for draw in range(NULL_DRAWS):
        shuffle = generator(seed, "explorer programs", str(draw)).permutation(inside.shape[1])
        p, _, _ = over_representation(inside, members[:, shuffle])
        found.append(benjamini_hochberg(p.ravel()).reshape(p.shape) <= ALPHA)
    return found


def _shown(
    lists: Sequence[_List], p: np.ndarray, q: np.ndarray, overlap: np.ndarray, members: np.ndarray
) -> dict[tuple[int, int, str], dict[str, Any]]:
    found: dict[tuple[int, int, str], dict[str, Any]] = {}
    for i, (head, f, side, direction, top) in enumerate(lists):
        one = found.setdefault((head, f, side), {"n": 0, "hits": 0, "least": 1.0, "rows": []})
        one["n"] += p.shape[1]
        one["hits"] += int((q[i] <= ALPHA).sum())
        one["least"] = min(one["least"], float(q[i].min()))
        for t in np.flatnonzero(q[i] <= ALPHA):
            genes, chance = [int(gene) for gene in top if members[t, gene]], (short(p[i, t], 3), short(q[i, t], 3))
            one["rows"].append([int(t), direction, int(overlap[i, t]), len(top), *chance, genes])
    for one in found.values():
        one["least"] = short(one["least"], 3)
        one["rows"] = sorted(one["rows"], key=lambda row: (row[4], row[0]))[:N_HITS]
    return found
