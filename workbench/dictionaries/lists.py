"""Gene lists and rankings of features named by gene sets, beside random ones whose genes are alike in expression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import hypergeom

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
    strata: Int[np.ndarray, " gene"],
    *,
    draws: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The program of each list of genes, and p against random lists of the same length and strata.

    Random lists do not keep which genes go together. Where genes of a list do, p is too small for sets of such genes: with features that are
    random directions of genes that correlate by .3 inside sets, three in five p are at most 0.05 (`experiments/calibration_others.py`).

    Parameters
    ----------
    lists
        Numbers of genes of each feature; an empty list is named by nothing.
    members, terms
        Whether each gene of the panel is in each term, and the terms' names.
    strata
        Stratum of each gene: those of one are alike in expression, and take each other's place in a draw.
    draws, seed
        Random lists of each feature, and their seed.

    Returns
    -------
    tuple
        A row per feature and the summary, see `Names`.

    Raises
    ------
    EvaluationError
        If there is no draw.
    """
    if draws < 1:
        raise EvaluationError(f"{draws} random lists were asked for; p needs one at least, and names need many.")
    n_genes = members.shape[1]
    full = [number for number, one in enumerate(lists) if len(one)]
    p, odds, overlap = over_representation(indicators([(lists[i],) for i in full], n_genes), members)
    best, usual = p.min(1, initial=1), ruled(p)
    tails = Tails(np.array([len(lists[i]) for i in full], dtype=int), members)
    alike, usual_random = np.zeros(len(full)), np.zeros(len(full))
    for draw in range(draws):
        moved = dealt(strata, seed, draw)  # of all lists alike
        random = tails.p(indicators([(moved[lists[i]],) for i in full], n_genes))
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
    strata: Int[np.ndarray, " gene"],
    *,
    draws: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The program at the top of each feature's ranking of all genes (pre-ranked enrichment), and p against rankings dealt anew within strata.

    The score of a term is that of Subramanian et al. (2005), weight 1, over its mean in the draws where it is above 0; that of a ranking is the largest
    of its terms. A term none of whose genes has a score above 0 gets 0. As in `name_lists`, p is too small where genes of a set go together.

    Parameters
    ----------
    scores
        How much of each feature each gene has, not below 0.
    members, terms
        Whether each gene of the panel is in each term, and the terms' names.
    strata
        Stratum of each gene: in a draw, genes of one take each other's place.
    draws, seed
        Rankings of each feature, dealt anew within strata and as many without, and their seed.

    Returns
    -------
    tuple
        A row per feature: ``feature``, ``ranked_program``, ``ranked_score``, ``ranked_p``, ``ranked_q``; and the summary, see `Names`. The usual
        rule deals all genes anew, whatever their expression, and pools terms, as that paper does.

    Raises
    ------
    EvaluationError
        If there is no draw.
    """
    if draws < 1:
        raise EvaluationError(f"{draws} random rankings were asked for; p needs one at least.")
    full = np.flatnonzero((scores > 0).any(1))
    of_term = [np.flatnonzero(row) for row in members]
    free = np.zeros(members.shape[1], dtype=int)
    moved = [np.array([dealt(one, seed, draw) for draw in range(draws)]) for one in (strata, free)]
    found = []
    rule, rule_random = np.zeros(len(full), dtype=bool), np.zeros(len(full))
    for i, feature in enumerate(full):
        own = scores[feature]
        rank = np.empty(len(own), dtype=int)
        rank[np.argsort(-own, kind="stable")] = np.arange(len(own))
        weights, n_positive = rank_weights(own), int((own > 0).sum())
        observed, alike, random = (
            np.stack([_scored(rank[where[:, genes]], weights, n_positive) for genes in of_term], axis=1)
            for where in (np.arange(len(own))[None], *moved)
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


def dealt(strata: Int[np.ndarray, " gene"], seed: int, draw: int) -> Int[np.ndarray, " gene"]:
    """For each gene the one whose place it takes in a draw: one of its stratum.

    Parameters
    ----------
    strata
        Stratum of each gene, numbered from 0.
    seed, draw
        Seed that all draws are keyed by, and the number of this one among them.
    """
    moved = np.arange(len(strata))
    rng = generator(seed, "random lists", str(draw))
    for stratum in range(int(strata.max()) + 1):
        group = np.flatnonzero(strata == stratum)
        moved[group] = rng.permutation(group)
    return moved


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
    """P of `over_representation` from a table, for lists of given lengths and terms of given sizes: overlaps alone change between draws.

    Parameters
    ----------
    lengths
        How many genes each list has, in the order of the lists.
    members
        Whether each gene is in each term.
    """

    def __init__(self, lengths: np.ndarray, members: np.ndarray) -> None:
        self.members = members.astype(np.float32)
        known, self._row = np.unique(lengths, return_inverse=True)
        most = int(lengths.max(initial=0))
        overlap = np.arange(most + 1)
        n_term = members.sum(1)
        tail = hypergeom.sf(overlap[None, None, :] - 1, members.shape[1], n_term[None, :, None], known[:, None, None])
        self._tail = np.where(overlap > 0, tail, 1.0)

    def p(
        self, lists: Bool[np.ndarray, "list gene"], members: Bool[np.ndarray, "term gene"] | None = None
    ) -> Float[np.ndarray, "list term"]:
        """P of lists of these lengths.

        Parameters
        ----------
        lists
            Whether each gene is in each list.
        members
            Whether each gene is in each term, as many as at first; those of the start when None.
        """
        there = self.members if members is None else members.astype(np.float32)
        overlap = (lists.astype(np.float32) @ there.T).astype(int)
        return self._tail[self._row[:, None], np.arange(len(self.members))[None], overlap]
