"""What features are of: genes, cell types, donors and gene programs, beside random gene lists of the same length and expression.

The field's rule calls a feature annotated when its top genes are over-represented in some set. Genes that a cell expresses strongly
are in many sets, so that random lists of such genes are annotated as often. Here each list is compared with random ones of the same
length whose genes lie in the same strata of expression; the share named by the field's rule is reported beside its share of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import hypergeom

from workbench.dictionaries.dictionary import Dictionary
from workbench.dictionaries.judge import encoded, gather
from workbench.dictionaries.judging import by_gene
from workbench.errors import EvaluationError, HookError
from workbench.factors.gene_sets import GeneSets, usable_terms
from workbench.factors.programs import indicators, over_representation
from workbench.geometry.gene_covariates import make_strata
from workbench.models import CellModel
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg
from workbench.tools.common import column

# Firings on a gene that its mean needs; share of activation, of so many firings, that makes a feature one donor's; q of a name.
_FIRINGS, _ONE_DONOR, _OF_FIRINGS, _Q = 3, 0.9, 10, 0.05


@dataclass(frozen=True)
class Names:
    """What features are of.

    Attributes
    ----------
    features
        A row per feature: ``feature``, ``genes`` (the first of its list, joined by ;), ``n_list``, ``program`` (term with the smallest
        p; empty without an overlap), ``odds``, ``overlap``, ``p_urn`` (as if genes were independent), ``p`` (share of matched random lists
        with as small a p in any term), ``q`` (Benjamini-Hochberg over features with a list), ``named`` (q at most 0.05) and, where the cells have them,
        ``cell_type``, ``cell_type_lift``, ``donor``, ``donor_share``, ``one_donor`` (nine tenths of ten firings or more; of several donors).
    genes
        A row per feature and gene of its list: ``feature``, ``rank``, ``gene``, ``mean`` (activation where it fires), ``firings``, ``lift``
        (share of the feature's firings on the gene over the gene's share of tokens).
    terms
        What became of each gene set on the panel, see `on_panel`.
    summary
        ``features`` (with a list), ``named`` (share with q at most 0.05), ``rule`` (share that the field's rule names: smallest p after
        Benjamini-Hochberg over terms at most 0.05) and ``rule_random`` (the same share of matched random lists).
    """

    features: pd.DataFrame
    genes: pd.DataFrame
    terms: pd.DataFrame
    summary: dict[str, Any]


def name_features(
    model: CellModel,
    cells: AnnData,
    dictionary: Dictionary,
    sets: GeneSets,
    *,
    cell_type: str | None = None,
    donor: str | None = None,
    n_top: int = 20,
    draws: int = 2000,
    seed: int = 0,
    min_gene_share: float | None = None,
) -> Names:
    """Name the features of a dictionary.

    Parameters
    ----------
    model, dictionary
        Model, and a dictionary of one of its hooks with a row per gene.
    cells
        Cells that are looked at; all of their activations are held in memory.
    sets
        Gene sets of any source, cut to the genes that the cells have as tokens.
    cell_type, donor
        Columns of ``obs``; none are looked at when None.
    n_top
        Genes of a feature's list, at most.
    draws
        Random lists of each feature. The smallest p is 1 / (1 + draws); with many features q needs many.
    seed
        Seed of the tokeniser and of the lists.
    min_gene_share
        Smallest share of genes in the vocabulary, as in `CellModel.tokenizer`.

    Raises
    ------
    HookError
        If the dictionary is of another model, or of a hook whose rows are cells.
    EvaluationError
        If no gene set is left on the panel.
    CellsError
        If a column is absent.
    """
    dictionary.check(model)
    rows = gather(model, dictionary, cells, seed, min_gene_share)
    ids, levels, of_cell = (x.cpu().numpy() for x in (rows.genes, rows.levels, rows.cells))
    if ids.min() < 0:
        raise HookError(
            f"Rows of '{dictionary.hook}' are cells, which have no gene to name a feature by; take a hook with a row per gene."
        )
    features, _ = encoded(dictionary, rows)
    panel, at = np.unique(ids, return_inverse=True)
    genes = [model.vocabulary.token(int(i)) for i in panel]
    counts = np.bincount(at)
    lists, by_rank = top_genes(features, at, genes, n_top)
    level = np.bincount(at, weights=levels) / counts
    strata = make_strata(np.column_stack([counts, level]))
    kept, terms = usable_terms(sets, genes)
    members = np.array([np.isin(genes, kept.sets[term]) for term in kept.sets])
    programs, summary = name_lists(lists, members, list(kept.sets), strata, draws=draws, seed=seed)
    shown = by_rank[by_rank["rank"] <= 5].groupby("feature")["gene"].agg(";".join)
    programs.insert(1, "genes", programs["feature"].map(shown).fillna(""))
    if cell_type is not None:
        labels = column(cells, cell_type)[of_cell]
        programs["cell_type"], _, programs["cell_type_lift"] = leading_label(features, labels)
    if donor is not None:
        of_donors = leading_donor(features, column(cells, donor)[of_cell])
        programs = programs.join(of_donors)
    return Names(programs, by_rank, terms, summary)


def leading_donor(features: sp.csr_matrix, donors: Shaped[np.ndarray, " row"]) -> pd.DataFrame:
    """The donor of each feature, and whether it is of that one alone.

    Parameters
    ----------
    features
        Features of each row, zeros left out.
    donors
        Donor of each row's cell; rows with an empty one count as none's.

    Returns
    -------
    DataFrame
        A row per feature: ``donor``, ``donor_share``, ``one_donor``, see `Names`.
    """
    top, share, _ = leading_label(features, donors)
    several = len(set(donors.tolist()) - {""}) > 1
    often = np.diff(features.tocsc().indptr) >= _OF_FIRINGS
    return pd.DataFrame({"donor": top, "donor_share": share, "one_donor": (share >= _ONE_DONOR) & often & several})


def activity_by_label(features: sp.csr_matrix, labels: Shaped[np.ndarray, " row"]) -> pd.DataFrame:
    """How strongly and how often each feature fires at the rows of each label.

    Parameters
    ----------
    features
        Features of each row, zeros left out.
    labels
        Label of each row's cell; rows with an empty one are left out.

    Returns
    -------
    DataFrame
        A row per feature and label: ``feature``, ``label``, ``mean`` (activation over all rows of the label, zeros among them), ``density`` (share
        of these rows where it fires).
    """
    known = sorted(set(labels.tolist()) - {""})
    fires = features.copy()
    fires.data = np.ones_like(fires.data)
    n = features.shape[1]
    found = []
    for name in known:
        rows = np.flatnonzero(labels == name)
        mean, density = (np.asarray(x[rows].mean(0)).ravel() for x in (features, fires))
        found.append(pd.DataFrame({"feature": np.arange(n), "label": name, "mean": mean, "density": density}))
    columns = ["feature", "label", "mean", "density"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def top_genes(
    features: sp.csr_matrix, genes: Int[np.ndarray, " row"], names: list[str], n_top: int
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """The genes on which each feature fires most strongly, of those that it prefers to what tokens there are.

    Parameters
    ----------
    features
        Features of each row, zeros left out.
    genes, names
        Number of each row's gene, and the names by number.
    n_top
        Genes of a list, at most.

    Returns
    -------
    tuple
        Numbers of the genes of each feature, by mean activation where it fires, among genes with a lift above 1 and three firings; and
        the table of them, see `Names`.
    """
    sums, fires = by_gene(features, genes, len(names))
    share = np.bincount(genes, minlength=len(names)) / len(genes)
    lists, tables = [], []
    for feature in range(features.shape[1]):
        own = slice(fires.indptr[feature], fires.indptr[feature + 1])
        at, n = fires.indices[own], fires.data[own]
        if not len(at):
            lists.append(np.zeros(0, dtype=int))
            continue
        mean = np.asarray(sums[feature, at].todense()).ravel() / n
        lift = n / n.sum() / share[at]
        good = np.flatnonzero((n >= _FIRINGS) & (lift > 1))
        order = good[np.lexsort((at[good], -mean[good]))][:n_top]
        lists.append(at[order].astype(int))
        found = {"feature": feature, "rank": np.arange(1, len(order) + 1), "gene": [names[i] for i in at[order]]}
        tables.append(
            pd.DataFrame({**found, "mean": mean[order], "firings": n[order].astype(int), "lift": lift[order]})
        )
    columns = ["feature", "rank", "gene", "mean", "firings", "lift"]
    return lists, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


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
    best, ruled = p.min(1, initial=1), _ruled(p)
    tails = _Tails(np.array([len(lists[i]) for i in full], dtype=int), members)
    alike, ruled_random = np.zeros(len(full)), np.zeros(len(full))
    groups = [np.flatnonzero(strata == stratum) for stratum in range(strata.max() + 1)]
    for draw in range(draws):
        # Genes change places within their stratum, all lists alike.
        moved = np.arange(n_genes)
        rng = generator(seed, "random lists", str(draw))
        for group in groups:
            moved[group] = rng.permutation(group)
        random = tails.p(indicators([(moved[lists[i]],) for i in full], n_genes))
        alike += random.min(1, initial=1) <= best * (1 + 1e-9)
        ruled_random += _ruled(random)
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
    table["named"] = (table["q"] <= _Q) & (table["program"] != "")
    summary = {
        "features": len(full),
        "named": float(table.loc[full, "named"].mean()) if full else float("nan"),
        "rule": float(ruled.mean()) if full else float("nan"),
        "rule_random": float(ruled_random.mean() / draws) if full else float("nan"),
    }
    return table, summary


def _ruled(p: np.ndarray) -> np.ndarray:
    """Whether the smallest p of each list stays at or under `_Q` after Benjamini-Hochberg over terms."""
    n = p.shape[1]
    return (np.sort(p, axis=1) * n / np.arange(1, n + 1)).min(1, initial=1) <= _Q


class _Tails:
    """P of `over_representation` for lists of given lengths, from a table: what changes between draws is the overlap alone."""

    def __init__(self, lengths: np.ndarray, members: np.ndarray) -> None:
        self.members = members.astype(np.float32)
        known, self._row = np.unique(lengths, return_inverse=True)
        most = int(lengths.max(initial=0))
        overlap = np.arange(most + 1)
        n_term = members.sum(1)
        tail = hypergeom.sf(overlap[None, None, :] - 1, members.shape[1], n_term[None, :, None], known[:, None, None])
        self._tail = np.where(overlap > 0, tail, 1.0)

    def p(self, lists: np.ndarray) -> np.ndarray:
        overlap = (lists.astype(np.float32) @ self.members.T).astype(int)
        return self._tail[self._row[:, None], np.arange(len(self.members))[None], overlap]


def leading_label(
    features: sp.csr_matrix, labels: Shaped[np.ndarray, " row"]
) -> tuple[np.ndarray, Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """The label with the largest lift of a feature's activation, that label's share of it, and the lift.

    Parameters
    ----------
    features
        Features of each row, zeros left out.
    labels
        Label of each row's cell; rows with an empty one count as none's.

    Returns
    -------
    tuple
        Label (empty where the feature is silent), share of the activation of rows with a label, and that over the label's share of rows.
    """
    known = sorted(set(labels.tolist()) - {""})
    place = {label: i for i, label in enumerate(known)}
    there = np.flatnonzero(labels != "")
    at = np.array([place[label] for label in labels[there]], dtype=int)
    one_hot = sp.csr_matrix((np.ones(len(there)), (at, there)), shape=(len(known), len(labels)))
    sums = np.asarray((one_hot @ features).todense()).T
    share = sums / np.maximum(sums.sum(1, keepdims=True), 1e-300)
    lift = share / (np.bincount(at, minlength=len(known)) / max(len(at), 1))
    top = lift.argmax(1)
    silent = sums.sum(1) <= 0
    rows = np.arange(len(top))
    label = np.where(silent, "", np.array(known, dtype=object)[top])
    return label, np.where(silent, np.nan, share[rows, top]), np.where(silent, np.nan, lift[rows, top])
