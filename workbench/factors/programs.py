"""Which known gene programs the factors of an operator read and write, offline, against the panel that the model saw.

Genes of a program go together in the cells, so that most directions of the expression have them near each other: a test that
takes genes to be independent calls most factors enriched, random ones too. Here p is the share of random directions that
do as well. A direction is drawn from a normal distribution whose covariance is the correlation of genes over the cells,
which is X^T w for standardised expression X and random numbers w per cell; genes come in its order, and the factor's own
loadings are dealt out in that order. So the null keeps the sizes of the loadings and which genes go together, and where no
genes do it is that of shuffled genes. It does not keep which genes an operator makes large in all factors.

A small p says "this factor is about these genes, more than a random direction of the cells", never "the model has learnt this
program"; for that, compare with the factors of a control operator. Simulated level and power: `experiments/calibration_factors.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.stats import hypergeom

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.gene_sets import GeneSets, usable_terms
from workbench.operators.controls import coexpression
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg
from workbench.threads import one_thread

COLUMNS = (
    *("method", "factor", "side", "direction", "term", "source", "score"),
    *("overlap", "n_term", "n_list", "genes", "p", "q"),
)
# Directions that are drawn at once.
_AT_ONCE = 1000


@dataclass(frozen=True)
class Enrichment:
    """Programs of factors.

    Attributes
    ----------
    table
        One row per test: ``method``, ``factor``, ``side``, ``direction``, ``term``, ``source``, ``score`` (ORA: odds ratio,
        0.5 added to each cell; GSEA: enrichment score over the mean size of the null's of its sign), ``overlap`` (ORA: genes
        of the term in the list; GSEA: leading edge), ``n_term`` (genes of the term on the panel), ``n_list`` (ORA: genes of
        the list; GSEA: genes ranked), ``genes`` (the overlap by rank, joined by ;), ``p``, ``q`` (Benjamini-Hochberg over
        all rows of a method). In GSEA ``direction`` is the sign of the score; + where there is none.
    terms
        What became of each term on the panel, see `on_panel`.
    """

    table: pd.DataFrame
    terms: pd.DataFrame


@one_thread()
def enrich(
    loadings: Mapping[str, Float[np.ndarray, "gene factor"]],
    genes: Sequence[str],
    sets: GeneSets,
    expression: sp.csr_matrix | sp.csr_array | Float[np.ndarray, "cell gene"],
    *,
    n_top: int = 60,
    draws: int = 30000,
    seed: int,
    min_size: int = 3,
    max_size: int = 500,
) -> Enrichment:
    """Over-representation and pre-ranked GSEA of each factor, side and direction, beside random directions of the cells.

    - ORA: the `n_top` genes with the largest positive loading are one list (direction +), those with the most negative
      loading another (-); zeros are in neither, and a direction without genes has no rows. p is the share of random
      directions whose list of that length holds as many genes of the term, at both of their ends; a term with no gene in
      the list has p 1 and counts.
    - GSEA (`gseapy.prerank`; Subramanian et al., PNAS 102:15545, 2005): all genes by signed loading, weight 1, see
      `preranked`. p is the share of random directions with as large a score among those with a score of its sign.

    The observed list or ranking counts as a draw, so that no p is 0: the smallest is 1 / (1 + 2 draws) in ORA and about
    1 / (1 + draws / 2) in GSEA. Equal loadings are ordered by gene name, and nothing depends on the order of `genes`.

    Parameters
    ----------
    loadings
        Side (``read``, ``write``) -> signed loadings; sides have the same factors.
    genes
        The panel that the model saw, in the order of the rows: the background of both tests.
    sets
        Gene sets of any source. They are cut to the panel here.
    expression
        Cells by genes, log-normalised: whose gene-gene correlation the random directions have. A gene that does not vary
        goes with none.
    n_top
        Genes of an ORA list, per direction.
    draws
        Random directions, 1 or more; time goes with draws x genes of all terms x factors. A single hit among n tests of
        ORA takes 10 n draws, of GSEA 40 n.
    seed
        Seed of the random directions.
    min_size, max_size
        Genes that a term has on the panel, see `on_panel`.

    Raises
    ------
    EvaluationError
        If no term is left, the panel names a gene twice, a loading is not finite, a factor is zero everywhere on a side,
        or a number is out of range.
    ShapeError
        If loadings do not have a row per gene, expression not a column per gene, or sides differ in their factors.
    """
    names = tuple(genes)
    _check(loadings, names, n_top, draws, np.shape(expression))
    order = sorted(range(len(names)), key=names.__getitem__)
    names = tuple(names[i] for i in order)
    sides = {side: np.asarray(values, dtype=np.float64)[order] for side, values in loadings.items()}
    kept, terms = usable_terms(sets, names, min_size, max_size)
    ordered = sorted(kept.sets)
    members = np.array([np.isin(names, kept.sets[term]) for term in ordered])
    lists = gene_lists(sides, n_top)
    _, odds, overlap = over_representation(indicators(lists, len(names)), members)
    rankings = [(side, factor, loading) for side, values in sides.items() for factor, loading in enumerate(values.T)]
    scored = [preranked(loading, members) for *_, loading in rankings]
    weights = [rank_weights(loading) for *_, loading in rankings]
    lengths = np.array([len(top) for *_, top in lists], dtype=int)
    null = _Null(members, lengths, overlap, weights, np.array([one["es"] for one in scored]))
    root = _root(sp.csr_matrix(expression)[:, order])
    for start in range(0, draws, _AT_ONCE):
        null.draw(root, min(_AT_ONCE, draws - start), generator(seed, "random directions", str(start)))
    rows: list[tuple[Any, ...]] = []
    n_term = members.sum(1)
    for number, (side, factor, direction, top) in enumerate(lists):
        p = (1 + null.lists[number]) / (1 + 2 * draws)
        for t, hits in enumerate(overlap[number]):
            shown = ";".join(names[i] for i in top if members[t, i])
            found = odds[number, t], hits, n_term[t], len(top), shown, p[t] if hits else 1.0
            rows.append(("ORA", factor, side, direction, t, *found))
    for number, ((side, factor, _), scores) in enumerate(zip(rankings, scored, strict=True)):
        for t, (es, edge) in enumerate(scores.itertuples(index=False, name=None)):
            alike, mean = null.alike[number, t], null.size[number, t] / max(null.alike[number, t], 1)
            score = es / mean if mean > 0 else 0.0 if es == 0 else float("nan")
            p_es = 1.0 if es == 0 else (1 + null.scores[number, t]) / (1 + alike)
            found = score, len(edge), n_term[t], len(names), ";".join(names[i] for i in edge), p_es
            rows.append(("GSEA", factor, side, "-" if es < 0 else "+", t, *found))
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if c not in ("source", "q")])
    table["q"] = table.groupby("method")["p"].transform(lambda p: benjamini_hochberg(p.to_numpy()))
    table["term"] = [ordered[t] for t in table["term"]]
    table["source"] = [kept.sources[term] for term in table["term"]]
    # ORA first, then factors by number: past 100 their names no longer sort.
    table = table.sort_values(["method", "factor", "side", "direction", "p", "term"], ascending=[False] + [True] * 5)
    table["factor"] = [_factor(number) for number in table["factor"]]
    return Enrichment(table[list(COLUMNS)].reset_index(drop=True), terms)


def gene_lists(
    sides: Mapping[str, Float[np.ndarray, "gene factor"]], n_top: int
) -> list[tuple[str, int, str, Int[np.ndarray, " top"]]]:
    """Genes with the largest loadings of one sign, for each side, factor and sign.

    Parameters
    ----------
    sides
        Signed loadings by side; equal ones come in the order of the rows.
    n_top
        Genes of a list, at most; loadings of zero are in none.

    Returns
    -------
    list of tuple
        Side, number of the factor, ``+`` or ``-``, and places of the genes, the largest loading first. A list without
        genes is left out.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.factors.programs import gene_lists
    >>> [(sign, top.tolist()) for *_, sign, top in gene_lists({"read": np.array([[0.2], [-0.5], [0.8], [0.0]])}, 3)]
    [('+', [2, 0]), ('-', [1])]
    """
    lists = []
    for side, values in sides.items():
        for factor, loading in enumerate(values.T):
            for sign, signed in (("+", loading), ("-", -loading)):
                top = np.argsort(-signed, kind="stable")[:n_top]
                top = top[signed[top] > 0]
                if len(top):
                    lists.append((side, factor, sign, top))
    return lists


def indicators(lists: Sequence[tuple[Any, ...]], n: int) -> Bool[np.ndarray, "list gene"]:
    """Whether each gene is in each list.

    Parameters
    ----------
    lists
        Lists as `gene_lists` gives them, of which only the last part, the genes, is looked at.
    n
        Number of genes of the panel.
    """
    inside = np.zeros((len(lists), n), dtype=bool)
    for row, (*_, top) in zip(inside, lists, strict=True):
        row[top] = True
    return inside


def over_representation(
    lists: Bool[np.ndarray, "list gene"], members: Bool[np.ndarray, "term gene"]
) -> tuple[Float[np.ndarray, "list term"], Float[np.ndarray, "list term"], Int[np.ndarray, "list term"]]:
    """P, odds ratio and overlap of every list with every term, all genes being the urn.

    P is P(X >= overlap), X hypergeometric: as if genes were independent, so no p of `enrich`; the odds ratio has 0.5 added to each cell of the table (Haldane 1940, Anscombe
    1956). Both as in `gseapy.enrich`, for all lists at once; there a term without overlap is left out, here it has p 1.

    Parameters
    ----------
    lists
        Whether each gene is in each list; all genes of the panel are columns.
    members
        Whether each gene is in each term; columns as in `lists`.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.factors.programs import over_representation
    >>> genes = np.arange(8)
    >>> p, odds, overlap = over_representation(genes[None] < 3, np.stack([genes < 2, genes > 5]))
    >>> p.round(3), overlap  # 3 of 8 genes hold both genes of the first term: 3 / 28
    (array([[0.107, 1.   ]]), array([[2, 0]]))
    """
    overlap = lists.astype(np.int64) @ members.astype(np.int64).T
    n, n_list, n_term = lists.shape[1], lists.sum(1)[:, None], members.sum(1)[None, :]
    p = np.where(overlap > 0, hypergeom.sf(overlap - 1, n, n_term, n_list), 1.0)
    outside = n - n_list - n_term + overlap
    odds = (overlap + 0.5) * (outside + 0.5) / ((n_term - overlap + 0.5) * (n_list - overlap + 0.5))
    return p, odds, overlap


def preranked(loading: Float[np.ndarray, " gene"], members: Bool[np.ndarray, "term gene"]) -> pd.DataFrame:
    """Enrichment scores of one ranking by `gseapy.prerank`, equal loadings in the order of the genes.

    The score of a term is that of Subramanian et al. (2005) with weight 1, see `rank_weights`.

    Parameters
    ----------
    loading
        Signed loadings, the largest first in the ranking; not zero everywhere.
    members
        Whether each gene is in each term; no term may hold all genes.

    Returns
    -------
    DataFrame
        One row per term, in order: ``es`` and ``edge`` (genes of the leading edge, by rank, as positions in `loading`). A
        term whose genes all have loading zero gets score 0.
    """
    import gseapy

    order = np.argsort(-loading, kind="stable")
    weights = np.where(loading[order] < 0, -1, 1) * rank_weights(loading)
    # Strictly falling: the library would otherwise warn that the order of ties is arbitrary.
    weights = weights - 1e-11 * np.abs(loading).sum() * np.arange(len(weights)) / len(weights)
    ids, sets = _named_sets(members)
    options = {"ascending": None, "threads": 1, "no_plot": True, "outdir": None, "permutation_num": 1, "seed": 0}
    ranking = pd.Series(weights, index=ids[order])
    every = gseapy.prerank(rnk=ranking, gene_sets=sets, min_size=1, max_size=len(loading), **options).res2d
    found = every.set_index("Term").loc[list(sets)]
    silent = ~(members & (loading != 0)).any(1)
    places = ([int(gene[1:]) for gene in edge.split(";") if gene] for edge in found["Lead_genes"])
    edges = [() if empty else tuple(edge) for empty, edge in zip(silent, places, strict=True)]
    es = np.where(silent, 0.0, found["ES"].to_numpy(dtype=np.float64))
    return pd.DataFrame({"es": es, "edge": pd.Series(edges, dtype=object)})


def rank_weights(loading: Float[np.ndarray, " gene"]) -> Float[np.ndarray, " rank"]:
    """Sizes of loadings, the largest loading first.

    Those of zero (sparse factors, non-negative ones) get 1e-7 of the sum: a set whose weights are all zero has no score.

    Parameters
    ----------
    loading
        Signed loadings of a ranking, in any order.
    """
    return np.maximum(np.abs(np.sort(loading)[::-1]), 1e-7 * np.abs(loading).sum())


def enrichment_scores(
    ranks: Int[np.ndarray, "draw gene"], weights: Float[np.ndarray, " rank"]
) -> Float[np.ndarray, " draw"]:
    """Enrichment score of one set in many rankings, as `preranked` gives it for one.

    Parameters
    ----------
    ranks
        Ranks of the set's genes in each ranking, from 0, ascending.
    weights
        Weight of each rank, above 0, as `rank_weights` gives them.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.factors.programs import enrichment_scores
    >>> enrichment_scores(np.array([[0, 1], [0, 3], [2, 3]]), np.ones(4))
    array([ 1. ,  0.5, -1. ])
    """
    step = weights[ranks]
    step /= step.sum(1, keepdims=True)
    hit = step.cumsum(1)
    # Genes outside the set that come before each of its genes.
    missed = (ranks - np.arange(ranks.shape[1])) / (len(weights) - ranks.shape[1])
    high, low = (hit - missed).max(1), (hit - step - missed).min(1)
    return np.where(high >= -low, high, low)


class _Null:
    """Counts, over random directions, of lists and rankings that do as well as the observed ones."""

    def __init__(
        self, members: np.ndarray, lengths: np.ndarray, overlap: np.ndarray, weights: list[np.ndarray], es: np.ndarray
    ) -> None:
        self.members, self.lengths, self.overlap, self.weights, self.es = members, lengths, overlap, weights, es
        self.lists, self.scores, self.alike = (np.zeros(of.shape, dtype=int) for of in (overlap, es, es))
        self.size = np.zeros(es.shape)

    def draw(self, root: np.ndarray, n: int, rng: np.random.Generator) -> None:
        """Count n more directions."""
        order = np.argsort(-(rng.standard_normal((n, len(root))) @ root), axis=1)
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
        for length in set(self.lengths.tolist()):
            own = self.lengths == length
            # Both ends of a direction: turned round it is as likely.
            for ends in (ranks < length, ranks >= ranks.shape[1] - length):
                drawn = ends.astype(np.float32) @ self.members.T.astype(np.float32)
                self.lists[own] += (drawn >= self.overlap[own][:, None]).sum(1)
        for t, inside in enumerate(self.members):
            of_term = np.sort(ranks[:, inside], axis=1)
            for number, weights in enumerate(self.weights):
                observed = self.es[number, t]
                drawn = enrichment_scores(of_term, weights) * (-1 if observed < 0 else 1)
                alike = drawn[drawn > 0]
                self.alike[number, t] += len(alike)
                self.size[number, t] += alike.sum()
                self.scores[number, t] += (alike >= abs(observed) - 1e-7).sum()


def _root(expression: sp.csr_matrix) -> np.ndarray:
    """Symmetric root of the correlation of genes: random numbers times it have that correlation."""
    if not np.isfinite(expression.data).all():
        raise EvaluationError("Expression is not all finite, so that genes have no correlation; leave such cells out.")
    correlation = coexpression(expression)
    # A gene that does not vary is as large as any and goes with none.
    np.fill_diagonal(correlation, 1)
    values, vectors = np.linalg.eigh(correlation)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _check(
    loadings: Mapping[str, np.ndarray], genes: tuple[str, ...], n_top: int, draws: int, cells: tuple[int, ...]
) -> None:
    if not loadings:
        raise EvaluationError("There are no loadings to enrich; give them by side, for example {'read': ...}.")
    shapes = {side: np.shape(values) for side, values in loadings.items()}
    for side, shape in shapes.items():
        if len(shape) != 2 or shape[0] != len(genes) or not shape[1]:
            raise ShapeError(f"Loadings of side '{side}' have shape {shape}; they need {len(genes)} genes x factors.")
    if len(set(shapes.values())) > 1:
        raise ShapeError(f"Sides differ in their factors: {shapes}; give loadings of the same factors.")
    for side, values in loadings.items():
        if not np.isfinite(values).all():
            raise EvaluationError(
                f"Loadings of side '{side}' are not all finite; leave out factors that were not computed."
            )
        empty = np.flatnonzero(~np.any(values, axis=0))
        if len(empty):
            raise EvaluationError(
                f"Factor {_factor(int(empty[0]))} is zero everywhere on side '{side}' and ranks no gene; leave it out."
            )
    if not 1 <= n_top < len(genes):
        raise EvaluationError(f"n_top is {n_top}; a list has at least 1 gene and fewer than the panel's {len(genes)}.")
    if draws < 1:
        raise EvaluationError(f"{draws} random directions were asked for; p needs one at least, and hits need many.")
    if len(cells) != 2 or cells[1] != len(genes):
        raise ShapeError(f"Expression has shape {cells}; it needs cells x the {len(genes)} genes of the panel.")


def _named_sets(members: np.ndarray) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Names of genes and sets that the library takes as they are: it would convert numbers, and change the case of some."""
    genes = np.array([f"G{i:06d}" for i in range(members.shape[1])], dtype=object)
    return genes, {f"T{i:06d}": list(genes[inside]) for i, inside in enumerate(members)}


def _factor(number: int) -> str:
    return f"f{number:02d}"
