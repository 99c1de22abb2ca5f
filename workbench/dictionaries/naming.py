"""What features are of: genes, cell types, donors and gene programs, beside random directions of the same cells.

The field's rule calls a feature annotated when its top genes are over-represented in some set. Genes that a cell expresses strongly
are in many sets, and genes of a set go together in the cells, so that lists that no model has chosen are annotated as often. Here each list
is compared with those on top of random directions of the cells' expression, of the same length and leaning as much to genes that are expressed strongly;
the share named by the field's rule is reported beside its share of those. Why such directions are the peers of features: `dictionaries.directions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float, Int, Shaped

from workbench.dictionaries.dictionary import Dictionary
from workbench.dictionaries.directions import cell_directions
from workbench.dictionaries.judge import encoded, gather
from workbench.dictionaries.judging import by_gene
from workbench.dictionaries.lists import name_lists, name_rankings
from workbench.dictionaries.regulation import name_regulators
from workbench.errors import HookError
from workbench.factors.gene_sets import GeneSets, usable_terms
from workbench.models import CellModel
from workbench.tools.common import column
from workbench.tools.gene_inputs import read_edges

# Firings on a gene that its mean needs; share of activation, of so many firings, that makes a feature one donor's; cells that are listed.
_FIRINGS, _ONE_DONOR, _OF_FIRINGS, _CELLS = 3, 0.9, 10, 5


@dataclass(frozen=True)
class Names:
    """What features are of.

    Attributes
    ----------
    features
        A row per feature: ``feature``, ``genes`` (the first of its list, joined by ;), ``n_list``, ``program`` (term with the smallest
        p; empty without an overlap), ``odds``, ``overlap``, ``p_urn`` (as if genes were independent), ``p`` (share of random directions of
        the cells whose list has as small a p in any term), ``q`` (Benjamini-Hochberg over features with a list), ``named`` (q at most 0.05), the columns of `name_rankings`
        and `name_regulators` where these were asked for, and, where the cells have them, ``cell_type``, ``cell_type_lift``, ``donor``, ``donor_share``, ``one_donor`` (nine tenths of ten firings or more; of several donors).
    genes
        A row per feature and gene of its list: ``feature``, ``rank``, ``gene``, ``mean`` (activation where it fires), ``firings``, ``lift``
        (share of the feature's firings on the gene over the gene's share of tokens).
    cells
        A row per feature and one of the cells where it is most active: ``feature``, ``rank``, ``cell``, ``mean`` (activation over all genes of the
        cell), ``firings``.
    terms
        What became of each gene set on the panel, see `on_panel`.
    summary
        A row per ``method`` (top genes, ranking, regulators): ``features`` (with a list), ``named`` (share with q at most 0.05), ``rule`` (share that the
        field's rule names: smallest p after Benjamini-Hochberg over terms at most 0.05) and ``rule_random`` (the same share of lists
        or rankings by random directions of the cells).
    """

    features: pd.DataFrame
    genes: pd.DataFrame
    cells: pd.DataFrame
    terms: pd.DataFrame
    summary: pd.DataFrame


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
    ranked_draws: int = 500,
    network: pd.DataFrame | str | Path | None = None,
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
        Random directions of the cells beside each list. The smallest p is 1 / (1 + draws); with many features q needs many.
    ranked_draws
        Random directions beside each ranking for pre-ranked enrichment, which takes longer; 0 for none.
    network
        Known regulation: a table with the columns ``source`` and ``target``, or its path, as `read_edges` takes it; none when None.
    seed
        Seed of the tokeniser and of the directions.
    min_gene_share
        Smallest share of genes in the vocabulary, as in `CellModel.tokenizer`.

    Raises
    ------
    HookError
        If the dictionary is of another model, or of a hook whose rows are cells.
    EvaluationError
        If no gene set is left on the panel, the network has too few edges there, or no gene varies over the cells.
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
    peers = cell_directions(_expression(levels, of_cell, at, cells.obs_names), np.column_stack([counts, level]))
    kept, terms = usable_terms(sets, genes)
    members = np.array([np.isin(genes, kept.sets[term]) for term in kept.sets])
    programs, summary = name_lists(lists, members, list(kept.sets), peers, draws=draws, seed=seed)
    summaries = [summary]
    if ranked_draws:
        scores = np.asarray(by_gene(features, at, len(genes))[0].todense()) / counts
        ranked, summary = name_rankings(scores, members, list(kept.sets), peers, draws=ranked_draws, seed=seed)
        programs, summaries = programs.merge(ranked, on="feature"), [*summaries, summary]
    if network is not None:
        edges = read_edges({"network": network}, genes)["network"]
        regulated, summary = name_regulators(lists, edges, genes, peers, draws=draws, seed=seed)
        programs, summaries = programs.merge(regulated, on="feature"), [*summaries, summary]
    shown = by_rank[by_rank["rank"] <= 5].groupby("feature")["gene"].agg(";".join)
    programs.insert(1, "genes", programs["feature"].map(shown).fillna(""))
    if cell_type is not None:
        labels = column(cells, cell_type)[of_cell]
        programs["cell_type"], _, programs["cell_type_lift"] = leading_label(features, labels)
    if donor is not None:
        of_donors = leading_donor(features, column(cells, donor)[of_cell])
        programs = programs.join(of_donors)
    active = top_cells(features, of_cell, cells.obs_names.to_numpy())
    return Names(programs, by_rank, active, terms, pd.DataFrame(summaries))


def _expression(levels: np.ndarray, of_cell: np.ndarray, gene: np.ndarray, names: pd.Index) -> sp.csr_matrix:
    """What the model reads of each gene in each cell, cells by name: a draw must not hang on their order."""
    place = np.argsort(np.argsort(names.astype(str), kind="stable"), kind="stable")
    return sp.csr_matrix((levels.astype(np.float64), (place[of_cell], gene)), shape=(len(names), int(gene.max()) + 1))


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


def top_cells(
    features: sp.csr_matrix, of_cell: Int[np.ndarray, " row"], names: Shaped[np.ndarray, " cell"]
) -> pd.DataFrame:
    """The cells in which each feature is most active.

    Parameters
    ----------
    features
        Features of each row, zeros left out.
    of_cell, names
        Number of each row's cell, and the names by number.

    Returns
    -------
    DataFrame
        ``feature``, ``rank``, ``cell``, ``mean``, ``firings``, see `Names`; five cells or fewer of each feature, equal ones by name.
    """
    order = np.argsort(names.astype(str), kind="stable")
    place = np.argsort(order, kind="stable")
    one_hot = sp.csr_matrix(
        (np.ones(len(of_cell)), (place[of_cell], np.arange(len(of_cell)))), shape=(len(names), len(of_cell))
    )
    fires = features.copy()
    fires.data = np.ones_like(fires.data)
    genes = np.maximum(np.bincount(place[of_cell], minlength=len(names)), 1)
    sums, times = (np.asarray((one_hot @ x).todense()).T for x in (features, fires))
    top = np.argsort(-sums / genes, axis=1, kind="stable")[:, :_CELLS]
    n, most = top.shape
    table = pd.DataFrame(
        {
            "feature": np.repeat(np.arange(n), most),
            "rank": np.tile(np.arange(1, most + 1), n),
            "cell": names[order][top.ravel()].astype(str),
            "mean": np.take_along_axis(sums / genes, top, 1).ravel(),
            "firings": np.take_along_axis(times, top, 1).ravel().astype(int),
        }
    )
    return table[table["firings"] > 0].reset_index(drop=True)


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
