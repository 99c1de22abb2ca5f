"""Gene lists and rankings of features named by gene sets, beside those of random directions of the cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.stats import hypergeom

from workbench.dictionaries.directions import CellDirections, ranked
from workbench.errors import EvaluationError
from workbench.factors.programs import enrichment_scores, indicators, over_representation, rank_weights
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg

# Ways of naming, as tables have them, and q of a name.
LISTS, RANKING, REGULATORS, Q = "top genes", "ranking", "regulators", 0.05
SHARES = ("named", "rule", "rule_random")


def name_lists(
    lists: list[np.ndarray],
    members: Bool[np.ndarray, "term gene"],
    terms: list[str],
    directions: CellDirections,
    *,
    draws: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The program of each list of genes, and p against lists of as many genes on top of random directions of the cells.

    A draw is a direction of the cells and what the list leans to (`CellDirections.leaning`), so that its genes go together as genes do over the
    cells, and are expressed about as strongly as those of the list.

    Parameters
    ----------
    lists
        Numbers of genes of each feature; an empty list is named by nothing.
    members, terms
        Whether each gene of the panel is in each term, and the terms' names.
    directions
        Random directions of the cells that the lists are of.
    draws, seed
        Random directions, the same for all features, and their seed.

    Returns
    -------
    tuple
        A row per feature and the summary, see `Names`.

    Raises
    ------
    EvaluationError
        If there is no draw, or no gene varies over the cells.
    """
    if draws < 1:
        raise EvaluationError(f"{draws} random directions were asked for; p needs one at least, and names need many.")
    n_genes = members.shape[1]
    full = [number for number, one in enumerate(lists) if len(one)]
    inside = indicators([(lists[i],) for i in full], n_genes)
    p, odds, overlap = over_representation(inside, members)
    best, usual = p.min(1, initial=1), ruled(p)
    lengths = np.array([len(lists[i]) for i in full], dtype=int)
    tails, leaning = Tails(lengths, members), directions.leaning(inside).astype(np.float32)
    alike, usual_random = np.zeros(len(full)), np.zeros(len(full))
    for direction in directions.draws(draws, seed) if full else ():
        random = tails.p(on_top(leaning + direction.astype(np.float32), lengths))
        alike += random.min(1, initial=1) <= best * (1 + 1e-9)
        usual_random += ruled(random)
    table = pd.DataFrame({"feature": np.arange(len(lists)), "n_list": [len(one) for one in lists]})
    calibrated = (1 + alike) / (1 + draws)
    top = p.argmin(1)
    hit = overlap[np.arange(len(full)), top] > 0
    columns: dict[str, tuple[Any, Any]] = {
        "program": ("", np.where(hit, np.array(terms, dtype=object)[top], "")),
        "odds": (np.nan, odds[np.arange(len(full)), top]),
        "overlap": (0, overlap[np.arange(len(full)), top]),
        "p_urn": (np.nan, best),
        "p": (np.nan, calibrated),
        "q": (np.nan, benjamini_hochberg(calibrated)),
    }
    for name, (nothing, values) in columns.items():
        table[name] = nothing
        table.loc[full, name] = values
    table["named"] = (table["q"] <= Q) & (table["program"] != "")
    summary = {
        "method": LISTS,
        "features": len(full),
        "named": float(table.loc[full, "named"].mean()) if full else float("nan"),
        "rule": float(usual.mean()) if full else float("nan"),
        "rule_random": float(usual_random.mean() / draws) if full else float("nan"),
    }
    return table, summary


def name_rankings(
    scores: Float[np.ndarray, "feature gene"],
    members: Bool[np.ndarray, "term gene"],
    terms: list[str],
    directions: CellDirections,
    *,
    draws: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The program at the top of each feature's ranking of all genes (pre-ranked enrichment), and p against rankings by random directions.

    The score of a term is that of Subramanian et al. (2005), weight 1, over its mean in the draws where it is above 0; that of a ranking is the largest
    of its terms. A term none of whose genes has a score above 0 gets 0. In a draw genes come in the order of a random direction of the cells, with what the
    ranking leans to (`CellDirections.steps`), and the feature's own scores are dealt out in that order.

    Parameters
    ----------
    scores
        How much of each feature each gene has, not below 0.
    members, terms
        Whether each gene of the panel is in each term, and the terms' names.
    directions
        Random directions of the cells that the scores are of.
    draws, seed
        Random directions, the same for all features, as many rankings dealt anew, and the seed of both.

    Returns
    -------
    tuple
        A row per feature: ``feature``, ``ranked_program``, ``ranked_score``, ``ranked_p``, ``ranked_q``; and the summary, see `Names`. The usual
        rule deals all genes anew, whatever their expression and whichever go together, and pools terms, as that paper does.

    Raises
    ------
    EvaluationError
        If there is no draw, or no gene varies over the cells.
    """
    if draws < 1:
        raise EvaluationError(f"{draws} random rankings were asked for; p needs one at least.")
    # Of equal scores all genes would rank alike, and no order says anything.
    full = np.flatnonzero((scores > 0).any(1) & (np.ptp(scores, axis=1) > 0))
    of_term, n_genes = [np.flatnonzero(row) for row in members], members.shape[1]
    drawn = np.array(list(directions.draws(draws, seed)))
    anew = np.array([generator(seed, "rankings anew", str(draw)).permutation(n_genes) for draw in range(draws)])
    found = []
    rule, rule_random = np.zeros(len(full), dtype=bool), np.zeros(len(full))
    for i, (own, steps) in enumerate(zip(scores[full], directions.steps(scores[full]), strict=True)):
        weights, n_positive = rank_weights(own), int((own > 0).sum())
        observed, alike, random = (
            np.stack([_scored(ranks[:, genes], weights, n_positive) for genes in of_term], axis=1)
            for ranks in (ranks_of(own[None]), ranks_of(ranked(steps, drawn)), anew)
        )
        # The observed one counts, so that it is one of the draws where it is like them.
        every = np.concatenate([observed, alike])
        mean = np.where(every > 0, every, 0).sum(0) / np.maximum((every > 0).sum(0), 1)
        relative = every / np.where(mean > 0, mean, 1)
        most, top = relative.max(1), int(relative[0].argmax())
        p = (most >= most[0] - 1e-12).mean()
        found.append((terms[top] if most[0] > 0 else "", max(most[0], 0.0), p))
        usual = _usual(every, random)
        rule[i], rule_random[i] = ruled(usual[:1])[0], ruled(usual[1:]).mean()
    table = pd.DataFrame({"feature": np.arange(len(scores)), "ranked_program": ""})
    table[["ranked_score", "ranked_p", "ranked_q"]] = np.nan
    if found:
        programs, size, p = (
            np.array(column, dtype=kind)
            for column, kind in zip(zip(*found, strict=True), (object, float, float), strict=True)
        )
        table.loc[full, "ranked_program"] = programs
        for name, values in (("score", size), ("p", p), ("q", benjamini_hochberg(p))):
            table.loc[full, f"ranked_{name}"] = values
    named = ((table["ranked_q"] <= Q) & (table["ranked_program"] != "")).to_numpy()[full]
    shares = [float(x.mean()) if len(full) else float("nan") for x in (named, rule, rule_random)]
    return table, {"method": RANKING, "features": len(full), **dict(zip(SHARES, shares, strict=True))}


def _scored(ranks: Int[np.ndarray, "draw gene"], weights: np.ndarray, n_positive: int) -> Float[np.ndarray, " draw"]:
    """Enrichment score of one term; 0 where none of its genes has a score above 0."""
    ranks = np.sort(ranks, axis=1)
    return np.where(ranks[:, 0] < n_positive, enrichment_scores(ranks, weights), 0.0)


def _usual(
    scores: Float[np.ndarray, "ranking term"], random: Float[np.ndarray, "draw term"]
) -> Float[np.ndarray, "ranking term"]:
    """P of each score above 0, over its term's mean, among random ones of all terms above 0, itself counted; 1 for others."""
    above = random > 0
    mean = np.where(above, random, 0).sum(0) / np.maximum(above.sum(0), 1)
    mean = np.where(mean > 0, mean, 1)
    pool = np.sort((random / mean)[above])
    larger = len(pool) - np.searchsorted(pool, scores / mean - 1e-12, side="left")
    return np.where(scores > 0, (1 + larger) / (1 + len(pool)), 1.0)


def on_top(values: Float[np.ndarray, "list gene"], lengths: Int[np.ndarray, " list"]) -> sp.csr_matrix:
    """Whether each gene is among so many with the largest values of its row.

    Parameters
    ----------
    values
        A number for each list and gene; of equal ones it is open which come first.
    lengths
        How many genes each list gets.
    """
    most = int(lengths.max())
    top = np.argpartition(-values, most - 1, axis=1)[:, :most] if most < values.shape[1] else np.argsort(-values)
    order = np.argsort(-np.take_along_axis(values, top, 1), axis=1, kind="stable")
    kept = np.take_along_axis(top, order, 1)[np.arange(most) < lengths[:, None]]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((np.ones(len(kept), dtype=np.float32), kept, ends), shape=values.shape)


def ranks_of(values: Float[np.ndarray, "draw gene"]) -> Int[np.ndarray, "draw gene"]:
    """Rank of each gene in its row, the largest value first, equal ones in their order.

    Parameters
    ----------
    values
        Numbers by which genes are ranked.
    """
    order = np.argsort(-values, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(values.shape[1])[None], axis=1)
    return ranks


def ruled(p: Float[np.ndarray, "list term"]) -> Bool[np.ndarray, " list"]:
    """Whether the field's rule names each list: its smallest p stays at or under `Q` after Benjamini-Hochberg over terms.

    Parameters
    ----------
    p
        P of each list with each term.
    """
    n = p.shape[1]
    return (np.sort(p, axis=1) * n / np.arange(1, n + 1)).min(1, initial=1) <= Q


class Tails:
    """P of `over_representation` from a table, for lists of given lengths: overlaps alone change between draws.

    Parameters
    ----------
    lengths
        How many genes each list has, in the order of the lists.
    members
        Whether each gene is in each term.
    """

    def __init__(self, lengths: Int[np.ndarray, " list"], members: Bool[np.ndarray, "term gene"]) -> None:
        self._of_gene = np.ascontiguousarray(members.T, dtype=np.float32)
        known, self._row = np.unique(lengths, return_inverse=True)
        most = int(lengths.max(initial=0))
        overlap = np.arange(most + 1)
        n_term = members.sum(1)
        tail = hypergeom.sf(overlap[None, None, :] - 1, members.shape[1], n_term[None, :, None], known[:, None, None])
        self._tail = np.where(overlap > 0, tail, 1.0)

    def p(self, lists: sp.csr_matrix) -> Float[np.ndarray, "list term"]:
        """P of lists of these lengths.

        Parameters
        ----------
        lists
            1 where a gene is in a list, zeros left out.
        """
        overlap = np.asarray(lists @ self._of_gene).astype(int)
        return self._tail[self._row[:, None], np.arange(overlap.shape[1])[None], overlap]
