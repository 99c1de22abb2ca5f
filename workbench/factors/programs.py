"""Which known gene programs the factors of an operator read and write, offline, against the panel that the model saw.

Both tests ask whether a program's genes stand out among the genes of the panel as if genes were independent, which genes of a
program are not: they go together in any factor of expression. A small p therefore says "this factor is about these
genes", never "the model has learnt this program"; for that, compare with the factors of a control operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import hypergeom

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.gene_sets import GeneSets, usable_terms
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg

COLUMNS = (
    *("method", "factor", "side", "direction", "term", "source", "score"),
    *("overlap", "n_term", "n_list", "genes", "p", "q"),
)
LEAST_PERMUTATIONS = 100


@dataclass(frozen=True)
class Enrichment:
    """Programs of factors.

    Attributes
    ----------
    table
        One row per test: ``method``, ``factor``, ``side``, ``direction``, ``term``, ``source``, ``score`` (ORA: odds ratio,
        0.5 added to each cell; GSEA: normalised enrichment score), ``overlap`` (ORA: genes of the term in the list; GSEA:
        leading edge), ``n_term`` (genes of the term on the panel), ``n_list`` (ORA: genes of the list; GSEA: genes
        ranked), ``genes`` (the overlap by rank, joined by ;), ``p``, ``q`` (Benjamini-Hochberg over all rows of a method).
        In GSEA ``direction`` is the sign of the score; + where there is none. NaN where it could not be estimated.
    null
        The same after genes were shuffled, one row per method and ``draw``: ``n_tests``, ``hits`` (rows with q <= 0.05) and
        ``smallest_p``.
    terms
        What became of each term on the panel, see `on_panel`.
    """

    table: pd.DataFrame
    null: pd.DataFrame
    terms: pd.DataFrame


def enrich(
    loadings: Mapping[str, Float[np.ndarray, "gene factor"]],
    genes: Sequence[str],
    sets: GeneSets,
    *,
    n_top: int = 60,
    permutations: int = 1000,
    null_draws: int = 20,
    seed: int,
    min_size: int = 3,
    max_size: int = 500,
) -> Enrichment:
    """Over-representation and pre-ranked GSEA of each factor, side and direction.

    - ORA (as `gseapy.enrich` counts): the `n_top` genes with the largest positive loading are one list (direction +), those with the
      most negative loading another (-); zeros are in neither, and a direction without genes has no rows. p is the upper
      tail of the hypergeometric distribution with the panel as urn; a term with no gene in the list has p 1 and counts.
    - GSEA (`gseapy.prerank`; Subramanian et al., PNAS 102:15545, 2005): all genes by signed loading, weight 1, see
      `preranked`.

    Equal loadings are ordered by gene name, and nothing depends on the order of `genes`.

    The null hands the gene names out anew, once per draw for all factors and both sides, and does everything again. With one
    permutation for all, what factors and sides share stays shared, so hits by chance clump in the null as they would in
    the table; a permutation of its own for each factor would make their number look steadier than it is.

    Parameters
    ----------
    loadings
        Side (``read``, ``write``) -> signed loadings; sides have the same factors.
    genes
        The panel that the model saw, in the order of the rows: the background of both tests.
    sets
        Gene sets of any source. They are cut to the panel here.
    n_top
        Genes of an ORA list, per direction.
    permutations
        Random sets per term that normalise the GSEA score, at least 100.
    null_draws
        Shufflings; each costs about as much as the table, a few seconds for 16 factors of 1,200 genes. None at 0.
    seed
        Seed of the random sets of GSEA and of the shufflings of the null.
    min_size, max_size
        Genes that a term has on the panel, see `on_panel`.

    Raises
    ------
    EvaluationError
        If no term is left, the panel names a gene twice, a loading is not finite, a factor is zero everywhere on a side,
        or a number is out of range.
    ShapeError
        If loadings do not have a row per gene, or sides differ in their factors.
    """
    names = tuple(genes)
    _check(loadings, names, n_top, permutations, null_draws)
    order = sorted(range(len(names)), key=names.__getitem__)
    names = tuple(names[i] for i in order)
    sides = {side: np.asarray(values, dtype=np.float64)[order] for side, values in loadings.items()}
    kept, terms = usable_terms(sets, names, min_size, max_size)
    ordered = sorted(kept.sets)
    members = np.array([np.isin(names, kept.sets[term]) for term in ordered])
    rows = _ora_rows(sides, names, members, n_top)
    n_term = members.sum(1)
    for side, factor, found in _gsea(sides, members, permutations, seed, "table"):
        for t, (es, nes, p, edge) in enumerate(found.itertuples(index=False, name=None)):
            sign, shown = "-" if es < 0 else "+", ";".join(names[i] for i in edge)
            rows.append(("GSEA", factor, side, sign, t, nes, len(edge), n_term[t], len(names), shown, p))
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if c not in ("source", "q")])
    table["q"] = table.groupby("method")["p"].transform(lambda p: benjamini_hochberg(p.to_numpy()))
    table["term"] = [ordered[t] for t in table["term"]]
    table["source"] = [kept.sources[term] for term in table["term"]]
    # ORA first, then factors by number: past 100 their names no longer sort.
    table = table.sort_values(["method", "factor", "side", "direction", "p", "term"], ascending=[False] + [True] * 5)
    table["factor"] = [_factor(number) for number in table["factor"]]
    table = table[list(COLUMNS)].reset_index(drop=True)
    return Enrichment(table, _null(sides, members, n_top, permutations, null_draws, seed), terms)


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

    P is P(X >= overlap), X hypergeometric; the odds ratio has 0.5 added to each cell of the table (Haldane 1940, Anscombe
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


def preranked(
    loading: Float[np.ndarray, " gene"], members: Bool[np.ndarray, "term gene"], permutations: int, seed: int
) -> pd.DataFrame:
    """GSEA of one ranking by `gseapy.prerank`, equal loadings in the order of the genes.

    The score of a term is that of Subramanian et al. (2005) with weight 1. p is estimated by adaptive multilevel splitting
    (Korotkevich et al., bioRxiv 060012, 2021), among random sets of the term's size with a score of its sign. A
    permutation p could not get below 1 / (1 + permutations of that sign), about 0.002 at 1,000, so that no q of 1,440
    tests (16 factors, 2 sides, 45 terms) would reach 0.05 unless 58 did at once.

    Loadings of zero (sparse factors, non-negative ones) get 1e-7 of the sum of |loading|: a random set in which every
    weight is zero has no score, and the estimate breaks on it.

    Parameters
    ----------
    loading
        Signed loadings, the largest first in the ranking; not zero everywhere.
    members
        Whether each gene is in each term; no term may hold all genes.
    permutations
        Random sets per term that normalise its score; `enrich` asks for 100 or more.
    seed
        Seed of the random sets. The same seed gives the same table.

    Returns
    -------
    DataFrame
        One row per term, in order: ``es``, ``nes``, ``p``, ``edge`` (genes of the leading edge, by rank, as positions in
        `loading`). A term whose genes all have loading zero gets score 0 and p 1. nes and p are NaN where fewer than ten of
        the random sets have a score of the term's sign.
    """
    import gseapy

    order = np.argsort(-loading, kind="stable")
    total = np.abs(loading).sum()
    ranked = loading[order]
    weights = np.where(ranked < 0, -1, 1) * np.maximum(np.abs(ranked), 1e-7 * total)
    # Strictly falling: the library would otherwise warn that the order of ties is arbitrary.
    weights = weights - 1e-11 * total * np.arange(len(weights)) / len(weights)
    ids, sets = _named_sets(members)
    options = {"ascending": None, "method": "multilevel", "threads": 1, "no_plot": True, "outdir": None}
    sizes = {"min_size": 1, "max_size": len(loading), "permutation_num": permutations, "seed": seed}
    ranking = pd.Series(weights, index=ids[order])
    found = gseapy.prerank(rnk=ranking, gene_sets=sets, **sizes, **options).res2d.set_index("Term").loc[list(sets)]
    table = pd.DataFrame({"es": found["ES"], "nes": found["NES"], "p": found["NOM p-val"]}, dtype=np.float64)
    table["edge"] = [tuple(int(gene[1:]) for gene in edge.split(";") if gene) for edge in found["Lead_genes"]]
    silent = ~(members & (loading != 0)).any(1)
    table.loc[silent, ["es", "nes", "p"]] = 0.0, 0.0, 1.0
    table["edge"] = [() if empty else edge for empty, edge in zip(silent, table["edge"], strict=True)]
    return table.reset_index(drop=True)


def _check(
    loadings: Mapping[str, np.ndarray], genes: tuple[str, ...], n_top: int, permutations: int, null_draws: int
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
    if permutations < LEAST_PERMUTATIONS:
        raise EvaluationError(
            f"GSEA needs at least {LEAST_PERMUTATIONS} permutations to normalise a score, not {permutations}."
        )
    if null_draws < 0:
        raise EvaluationError(f"null_draws is {null_draws}; give the number of shufflings, or 0 for none.")


def _named_sets(members: np.ndarray) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Names of genes and sets that the library takes as they are: it would convert numbers, and change the case of some."""
    genes = np.array([f"G{i:06d}" for i in range(members.shape[1])], dtype=object)
    return genes, {f"T{i:06d}": list(genes[inside]) for i, inside in enumerate(members)}


def _factor(number: int) -> str:
    return f"f{number:02d}"


def _ora_rows(
    sides: Mapping[str, np.ndarray], genes: tuple[str, ...], members: np.ndarray, n_top: int
) -> list[tuple[Any, ...]]:
    lists, rows = gene_lists(sides, n_top), []
    p, odds, overlap = over_representation(indicators(lists, len(genes)), members)
    for number, (side, factor, direction, top) in enumerate(lists):
        for t, n_term in enumerate(members.sum(1)):
            shown = ";".join(genes[i] for i in top if members[t, i])
            found = odds[number, t], overlap[number, t], n_term, len(top), shown, p[number, t]
            rows.append(("ORA", factor, side, direction, t, *found))
    return rows


def _gsea(
    sides: Mapping[str, np.ndarray], members: np.ndarray, permutations: int, seed: int, what: str
) -> Iterator[tuple[str, int, pd.DataFrame]]:
    for side, values in sides.items():
        for factor, loading in enumerate(values.T):
            own = int(generator(seed, "gsea", what, side, str(factor)).integers(2**31 - 1))
            yield side, factor, preranked(loading, members, permutations, own)


def _null(
    sides: Mapping[str, np.ndarray], members: np.ndarray, n_top: int, permutations: int, draws: int, seed: int
) -> pd.DataFrame:
    n = members.shape[1]
    rows: list[dict[str, Any]] = []
    for draw in range(draws):
        shuffle = generator(seed, "shuffled programs", str(draw)).permutation(n)
        shuffled = {side: values[shuffle] for side, values in sides.items()}
        ora, _, _ = over_representation(indicators(gene_lists(shuffled, n_top), n), members)
        gsea = [found["p"].to_numpy() for *_, found in _gsea(shuffled, members, permutations, seed, f"null {draw}")]
        for method, p in (("ORA", ora.ravel()), ("GSEA", np.concatenate(gsea))):
            hits = int((benjamini_hochberg(p) <= 0.05).sum())
            n_tests = int(np.isfinite(p).sum())
            smallest = float(np.nanmin(p)) if n_tests else float("nan")
            rows.append({"method": method, "draw": draw, "n_tests": n_tests, "hits": hits, "smallest_p": smallest})
    return pd.DataFrame(rows, columns=["method", "draw", "n_tests", "hits", "smallest_p"])
